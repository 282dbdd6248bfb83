"""Layer selection and probing: hidden states of pairs, layer by layer, and what is measured of them."""
