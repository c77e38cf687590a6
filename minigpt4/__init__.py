"""MLLM-DataEngine for MiniGPT-v2: training and evaluation."""
