# Denoiser, diffusion, samplers and interpolation.
target_sources(kandinsky_model PRIVATE
  denoising.cc
  diffusion.cc
  flop_counter.cc
  interpolation.cc
  layers.cc
  meta_kernels.cc
  mfi.cc
  norm.cc
  norm_kernel.cc
  reproducible.cc
  sampler.cc
  unet.cc
  unet_attention.cc
  unet_blocks.cc)

# Plain loops over floats: the compiler may vectorise and contract them as it likes, but not reorder sums.
set_source_files_properties(norm_kernel.cc PROPERTIES COMPILE_OPTIONS "-O3;-ffp-contract=fast;-fno-trapping-math;-Wno-psabi" SKIP_PRECOMPILE_HEADERS ON)
