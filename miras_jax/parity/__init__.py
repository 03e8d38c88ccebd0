"""`miras parity`: recomputes a golden folder of the PyTorch original, tensor by tensor.

folder (files and model config) -> rows (spliced sequences) -> port (our model on them)
-> towers, language, masks, training, alignment, lora, generation, data (the cases)
-> table (errors, tolerances, verdicts).
"""
