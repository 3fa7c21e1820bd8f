# Denoiser, diffusion, samplers and interpolation.
