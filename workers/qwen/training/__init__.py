"""Tuning a Qwen3-VL: transformers' Trainer and PEFT learn; reading, encoding and batching of samples is ours.

It knows no queue, no database and no store. `learn` in `learning.py` is the way in.
"""
