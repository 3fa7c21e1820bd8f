# Text encoder, MoVQ-GAN, model config and pipeline.
target_sources(kandinsky_model PRIVATE
  execution.cc
  json_reader.cc
  memory_plan.cc
  memory_tracker.cc
  model_config.cc
  movq.cc
  movq_norm.cc
  pipeline.cc
  pipeline_parts.cc
  text/embedding_cache.cc
  text/stored_matrix.cc
  text/text_encoder.cc
  text/tokenizer.cc
  vector_quantizer.cc
  weights_init.cc)

# SentencePiece is built against the system's protobuf. Its lite library would do, but a process that has the whole one,
# for gRPC, should load one protobuf.
find_library(KANDINSKY_PROTOBUF protobuf REQUIRED)
target_link_libraries(kandinsky_model PRIVATE ${KANDINSKY_PROTOBUF})
