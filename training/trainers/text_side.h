// Tokenizer, text encoder, projection and null embedding, as the trainers use them: in batches,
// with gradients, with text left out at random.
#ifndef KANDINSKY_TRAINING_TRAINERS_TEXT_SIDE_H_
#define KANDINSKY_TRAINING_TRAINERS_TEXT_SIDE_H_

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "worker/model/model_config.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/text/tokenizer.h"

namespace kandinsky::training {

class TextSide {
 public:
  // The tokenizer is read from the model directory; weights are not set.
  TextSide(const model::ModelConfig& config, const std::string& model_directory, at::Device device);

  // Ids and mask [B, L], cut to the longest text and one more. Thread-safe.
  struct Tokens {
    at::Tensor ids, mask;  // int64 [B, L]
  };
  Tokens Tokenize(const std::vector<std::string>& texts) const;

  // drop bool [B]: where true, the null embedding takes the text's place. With gradients if the
  // parameters want them. -> context [B, n, W], mask [B, n]
  model::TextContext Encode(const at::Tensor& ids, const at::Tensor& mask,
                            const at::Tensor& drop) const;

  const model::Tokenizer& tokenizer() const { return tokenizer_; }
  model::TextEncoder& encoder() { return encoder_; }
  at::Tensor& null_embedding() { return null_embedding_; }  // [W]

 private:
  const model::Tokenizer tokenizer_;
  model::TextEncoder encoder_;
  at::Tensor null_embedding_;
};

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_TRAINERS_TEXT_SIDE_H_
