"""The microscope: sampled hyper-gradients held against the exact one."""
