"""One thread and a fixed hypothesis profile: the machine is small and shared."""

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("fcbp", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("fcbp")
