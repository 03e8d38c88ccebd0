"""Earlier masks as input of later ones: what is kept of them, and its use."""
