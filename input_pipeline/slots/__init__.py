"""Earlier masks of a conversation as input of its later turns (docs/state.md)."""
