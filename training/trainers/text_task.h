// Trainer of the text encoder alone, on captions without clips.
#ifndef KANDINSKY_TRAINING_TRAINERS_TEXT_TASK_H_
#define KANDINSKY_TRAINING_TRAINERS_TEXT_TASK_H_

#include <cstdint>
#include <memory>
#include <string>

#include "training/core/task.h"
#include "training/data/clip_source.h"
#include "worker/model/model_config.h"

namespace kandinsky::training {

// loss = sum over attributes of the cross entropy of what a linear head reads off the mean of the
//        context's visible rows [+ anchor_weight (c - c0)^2, mean over elements of visible rows],
// where c is the context and c0 that of the encoder that training starts from. Which colour a
// caption gives to the shape and which to the background is in the order of its words: an encoder
// that heads cannot read this off leaves no U-Net a way to know. The anchor keeps contexts close
// to what U-Nets were trained on.
struct TextTaskOptions {
  // Model directory whose text encoder and projection training starts from; empty: that of the
  // run. Only the encoder learns; the projection belongs to the keyframe U-Net's file.
  std::string from;
  double anchor_weight = 1;
};

// State "text"; exports the file of `weights.text_encoder`. `source` must know attributes: the
// moving shapes.
std::unique_ptr<Task> MakeTextTask(const model::ModelConfig& config,
                                   const std::string& model_directory,
                                   std::shared_ptr<const ClipSource> source,
                                   const TextTaskOptions& options, at::Device device);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_TEXT_TASK_H_
