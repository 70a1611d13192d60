class SoftLabelCache:
    pass
