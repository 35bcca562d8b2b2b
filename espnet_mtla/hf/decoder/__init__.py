"""Pretrained language models as decoders of recipes (``decoder: pretrained``).

Read in this order: ``settings`` (the keys of ``decoder_conf``), ``source`` (checkpoints
that can be loaded), ``weights`` (their weights under the decoder's names).
"""
