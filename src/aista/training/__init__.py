"""The stages that train: alignment first, speech pre-training, joint training; one loop, exact resume."""
