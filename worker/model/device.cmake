# Recorded graphs, and copies beside the computing.
target_sources(kandinsky_model PRIVATE
  frame_delivery.cc
  graph_cache.cc)

# The only part that calls CUDA; in a build without it, it says so. No precompiled headers: its definitions are others.
kandinsky_library(NAME model_cuda SRCS cuda/graph_recorder.cc DEPS kandinsky_torch PRIVATE_DEPS kandinsky_torch_cuda)
target_link_libraries(kandinsky_model PRIVATE kandinsky_model_cuda)
