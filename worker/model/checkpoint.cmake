# Checkpoint readers, writers and loading into modules.
target_sources(kandinsky_model PRIVATE
  checkpoint/index.cc
  checkpoint/load.cc
  checkpoint/mapped_file.cc
  checkpoint/parallel_read.cc
  checkpoint/pickle.cc
  checkpoint/safetensors.cc
  checkpoint/shape.cc
  checkpoint/tensor_source.cc
  checkpoint/torch_file.cc
  checkpoint/zip.cc)

# Comparing with recordings, and converting checkpoints.
kandinsky_library(NAME model_tools SRCS
  tools/convert.cc
  tools/measure.cc
  tools/parity_case.cc
  tools/parity_manifest.cc
  tools/parity_report.cc
  tools/parity_tolerance.cc
  tools/request_flops.cc
  DEPS kandinsky_model PCH torch)
kandinsky_binary(NAME kandinsky-parity SRCS tools/parity_main.cc DEPS kandinsky_model_tools PCH torch)
kandinsky_binary(NAME kandinsky-convert SRCS tools/convert_main.cc DEPS kandinsky_model_tools PCH torch)
kandinsky_binary(NAME kandinsky-measure SRCS tools/measure_main.cc DEPS kandinsky_model_tools PCH torch)
kandinsky_binary(NAME kandinsky-plan SRCS tools/plan_main.cc DEPS kandinsky_model PCH torch)
