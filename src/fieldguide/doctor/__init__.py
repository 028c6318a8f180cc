"""The doctor: names what is wrong with any PyTorch training, with evidence, and is silent when nothing is."""
