"""timm backbones, the head on them, which layers are trained, and the losses."""
