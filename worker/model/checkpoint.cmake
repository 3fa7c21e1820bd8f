# Checkpoint readers, writers and loading into modules.
target_sources(kandinsky_model PRIVATE
  checkpoint/index.cc
  checkpoint/load.cc
  checkpoint/mapped_file.cc
  checkpoint/pickle.cc
  checkpoint/safetensors.cc
  checkpoint/shape.cc
  checkpoint/tensor_source.cc
  checkpoint/torch_file.cc
  checkpoint/zip.cc)
