"""Networks for text: encoders, language models and text-to-text models."""
