"""An OpenAI-compatible server over the engines that run in this process."""
