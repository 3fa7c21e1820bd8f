# Denoiser, diffusion, samplers and interpolation.
target_sources(kandinsky_model PRIVATE
  denoising.cc
  diffusion.cc
  interpolation.cc
  layers.cc
  mfi.cc
  norm.cc
  sampler.cc
  unet.cc
  unet_attention.cc
  unet_blocks.cc)
