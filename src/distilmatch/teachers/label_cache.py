class SoftLabelCache: pass
