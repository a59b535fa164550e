"""What the slots of llama.cpp have last read, and which slot goes on best with a prompt."""

from collections.abc import Iterable, Sequence

from smidgen.inference.prefixes import FAMILY_TOKENS, common_prefix


class SlotPrompts:
    """The last prompt of every slot, which reuses what its next prompt shares with it and loses the rest."""

    def __init__(self):
        self._prompts: dict[int, list[int]] = {}  # least recently used first

    def read(self, slot: int, prompt: list[int]) -> None:
        """Note that a slot reads a prompt."""
        self._prompts.pop(slot, None)
        self._prompts[slot] = prompt

    def shared(self, slot: int, prompt: Sequence[int]) -> int:
        """Return how many tokens of a prompt a slot has; 0 if so few that other prompts would lose more."""
        size = len(common_prefix(self._prompts.get(slot, []), prompt))
        return size if size >= FAMILY_TOKENS else 0

    def ranked(self, slots: Iterable[int], prompt: Sequence[int]) -> list[int]:
        """Order slots by how much of a prompt they have, then by how long they were not used."""
        used = {slot: place for place, slot in enumerate(self._prompts)}
        return sorted(slots, key=lambda slot: (-self.shared(slot, prompt), used.get(slot, -1), slot))

    def assigned(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> dict[int, int]:
        """Give every prompt a slot of its own; returns the index of the prompt by slot.

        Args:
            slots: free slots, at least as many as prompts.
            prompts: the prompts; those that find most in a slot choose first.
        """
        left, found = set(slots), dict[int, int]()
        wanted = {i: max(self.shared(slot, prompt) for slot in slots) for i, prompt in enumerate(prompts)}
        for i in sorted(wanted, key=lambda i: (-wanted[i], i)):
            slot = self.ranked(left, prompts[i])[0]
            left.remove(slot)
            found[slot] = i
        return found
