"""Fast plans made of plain PyTorch ops: no compiler, any device, any floating dtype.

Each plan is a pair of functions, forward and backward, that `palora_kernels.library` registers behind the ops. No plan
keeps M merged weights: forward holds one at a time, backward forms them again.
"""
