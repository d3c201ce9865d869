"""How the demo checkpoint is made: a real Qwen3-VL, small enough to train on one core and to ship with the code.

Run `python -m workers.qwen.demo --output FOLDER` to make it anew. Nothing here is needed to use it.
"""
