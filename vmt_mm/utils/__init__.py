"""What every room uses.

Files: ``files`` (atomic writes, targets checked before work), ``image_files`` and ``label_*``
(decoding without loss), ``layout`` (ids and their files). Running: ``processes``, ``modules``,
``console``, ``compat`` (what newer PyTorch has).
"""
