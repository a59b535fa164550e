"""`python -m smidgen` is `smidgen`."""

from smidgen.cli.app import main

main()
