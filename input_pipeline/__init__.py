"""Grain pipeline of multi-turn segmentation conversations; numpy only."""
