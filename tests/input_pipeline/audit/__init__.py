"""Tests of input_pipeline/audit."""
