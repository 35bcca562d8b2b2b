"""Convert a pretrained Llama (MHA or GQA) to MLA or MTLA.

Read in this order: ``source`` (checkpoints that can be converted), ``moments`` (second
moments of activations), ``rotary`` (components that stay rotary), ``factor`` (the new
weights of a layer, and the mathematics), ``build`` (the model), ``text`` (blocks of
tokens, perplexity), ``original`` (targets of distillation), ``heal`` (training).
``stages`` and ``curve`` measure, ``progress`` logs. ``recipe`` renames the weights of a
recipe's decoder.
"""
