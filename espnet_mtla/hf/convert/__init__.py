"""From a pretrained Llama (MHA or GQA) to MLA or MTLA.

Read in this order: ``source`` (what can be converted), ``moments`` (how activations are
distributed), ``rotary`` (which dimensions keep their rotation), ``factor`` (one layer's
new weights, and the mathematics), ``build`` (the model), ``heal`` (perplexity,
training).
"""
