#include "training/trainers/text_side.h"

#include <algorithm>

namespace kandinsky::training {

TextSide::TextSide(const model::ModelConfig& config, const std::string& model_directory,
                   at::Device device)
    : tokenizer_(model_directory + "/" + config.tokenizer),
      encoder_(config.text_encoder, at::TensorOptions(device)),
      null_embedding_(at::zeros({config.text_encoder.context_dim}, at::TensorOptions(device))) {}

TextSide::Tokens TextSide::Tokenize(const std::vector<std::string>& texts) const {
  const int64_t most = encoder_.config().max_length;
  std::vector<int64_t> ids, mask;
  int64_t longest = 0;
  for (const std::string& text : texts) {
    const model::TokenSequence tokens = tokenizer_.EncodePadded(text, most);
    ids.insert(ids.end(), tokens.ids.begin(), tokens.ids.end());
    mask.insert(mask.end(), tokens.mask.begin(), tokens.mask.end());
    longest = std::max<int64_t>(longest, std::count(tokens.mask.begin(), tokens.mask.end(), 1));
  }
  const int64_t length = std::min(longest + 1, most);
  const auto matrix = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).view({-1, most}).narrow(1, 0, length).contiguous();
  };
  return {matrix(ids), matrix(mask)};
}

model::TextContext TextSide::Encode(const at::Tensor& ids, const at::Tensor& mask,
                                    const at::Tensor& drop) const {
  const model::TextContext text = encoder_.Encode(ids, mask);
  const int64_t length = text.context.size(1);
  const at::Tensor dropped = drop.to(text.context.device());
  const at::Tensor first = at::arange(length, dropped.device()).eq(0);          // [n]
  const at::Tensor null = first.to(at::kFloat).unsqueeze(1) * null_embedding_;  // [n, W]
  return {at::where(dropped.view({-1, 1, 1}), null, text.context),
          at::where(dropped.view({-1, 1}), first, text.mask)};
}

}  // namespace kandinsky::training
