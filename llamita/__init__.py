"""llamita, the little llama: trains Llama-style language models from scratch, from raw text to a model that writes."""

__version__ = "0.1.0"
