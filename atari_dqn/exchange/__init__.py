"""Agents and their games in other programs' formats: ONNX, safetensors, Minari."""
