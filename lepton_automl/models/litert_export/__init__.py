"""Nets as LiteRT files (`.tflite`): lowering, flatbuffer, memory of a microcontroller."""
