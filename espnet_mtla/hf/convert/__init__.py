"""Convert a pretrained Llama (MHA or GQA) to MLA or MTLA.

Read in this order: ``source`` (checkpoints that can be converted), ``moments`` (second
moments of activations), ``rotary`` (components that stay rotary), ``factor`` (the new
weights of a layer, and the mathematics), ``build`` (the model), ``heal`` (perplexity,
training). ``recipe`` renames the weights of a recipe's decoder.
"""
