// From the published checkpoint files to a model directory.
#ifndef KANDINSKY_WORKER_MODEL_TOOLS_CONVERT_H_
#define KANDINSKY_WORKER_MODEL_TOOLS_CONVERT_H_

#include <ATen/ATen.h>

#include <optional>
#include <ostream>
#include <string>

namespace kandinsky::model {

struct ConvertOptions {
  // Folder of the published files: kandinsky_video.pt {unet, projections, null_embedding},
  // kandinsky_video_interpolation.pt {unet, null_embedding} and movq.pt (a plain state dict). Each
  // may also be safetensors (.safetensors, or an index of shards).
  std::string weights;
  // Folder of the text encoder in Hugging Face layout, with spiece.model.
  std::string text_encoder;
  // Checkpoint of the video decoder; needed when the model's config has one.
  std::string video_movq;
  // model.json that describes the result; its "weights" entry says which files are written.
  std::string config;
  // The model directory. Made when it does not exist.
  std::string out;
  // Type of the U-Nets, autoencoders and the text encoder in the result; nullopt: as stored.
  // Projection and null embeddings are computed in float32 and always keep their stored type.
  std::optional<at::ScalarType> dtype;
  // Replace files that are already there.
  bool overwrite = false;
};

// Compares every name and shape of every network first, and throws one ModelError that lists all
// that does not fit; then copies one tensor at a time, so memory stays near the size of the
// largest. Each file appears when it is complete, model.json last: a directory with a model.json is
// whole. Tells `log` each file.
void Convert(const ConvertOptions& options, std::ostream& log);

}  // namespace kandinsky::model

#endif  // KANDINSKY_WORKER_MODEL_TOOLS_CONVERT_H_
