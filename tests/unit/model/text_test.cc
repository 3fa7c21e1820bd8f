#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/model/checkpoint/load.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/error.h"
#include "worker/model/json_reader.h"
#include "worker/model/pipeline_parts.h"
#include "worker/model/text/embedding_cache.h"
#include "worker/model/text/text_encoder.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/weights_init.h"

namespace kandinsky::model {
namespace {

using ::testing::ElementsAre;

const std::string kTinyTokenizer = std::string(KANDINSKY_SOURCE_DIR) + "/models/tiny/spiece.model";

TextEncoderConfig SmallConfig() {
  TextEncoderConfig config;
  config.d_model = 24;
  config.d_kv = 8;
  config.num_heads = 4;
  config.num_layers = 2;
  config.d_ff = 32;
  config.vocab_size = 640;
  config.context_dim = 20;
  config.max_length = 16;
  return config;
}

void Initialize(TextEncoder& encoder) {
  InitializeWeights(encoder.t5(), 1);
  InitializeWeights(encoder.projection(), 1);
}

TEST(Tokenizer, AddedTokensCutTheText) {
  const Tokenizer tokenizer(kTinyTokenizer);
  const int64_t extra_0 = tokenizer.pieces() + 99;
  const auto plain = [&](const char* text) {
    std::vector<int64_t> ids = tokenizer.Encode(text);
    ids.pop_back();
    return ids;
  };
  const auto join = [](std::initializer_list<std::vector<int64_t>> parts) {
    std::vector<int64_t> ids;
    for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
    return ids;
  };
  const std::vector<int64_t> eos = {1};
  const struct {
    const char* text;
    std::vector<int64_t> want;
  } tests[] = {
      {"", eos},
      {" \t\n ", eos},
      {"</s>", eos},
      {"<pad>", {0, 1}},
      {"a</s>b", join({plain("a"), {1}, plain("b"), eos})},
      {"a </s>", join({plain("a"), eos})},
      {"<extra_id_0>", {extra_0, 1}},
      {"<extra_id_99>", {extra_0 - 99, 1}},
      {"a <extra_id_5> b", join({plain("a"), {extra_0 - 5}, plain("b"), eos})},
      {"<extra_id_1> <extra_id_2>", {extra_0 - 1, extra_0 - 2, 1}},
  };
  for (const auto& test : tests) EXPECT_EQ(tokenizer.Encode(test.text), test.want) << test.text;
  // Glued to a word it is text, so no id reaches the extra range.
  for (const char* text : {"a<extra_id_5>b", "a <extra_id_5>, b", "<extra_id_1><extra_id_2>",
                           "<extra_id_100>", "<pad><extra_id_1>"}) {
    for (const int64_t id : tokenizer.Encode(text)) EXPECT_LT(id, tokenizer.pieces()) << text;
  }
}

TEST(Tokenizer, KeepsEosWhenItTruncatesAndPads) {
  const Tokenizer tokenizer(kTinyTokenizer);
  const std::string text = "a red car is drifting on the mountain road";
  const std::vector<int64_t> all = tokenizer.Encode(text);
  ASSERT_GT(all.size(), 6u);
  for (const int64_t length : {1, 2, 5}) {
    std::vector<int64_t> want(all.begin(), all.begin() + length - 1);
    want.push_back(1);
    EXPECT_EQ(tokenizer.EncodeTruncated(text, length), want) << length;
  }
  const TokenSequence padded = tokenizer.EncodePadded("a", 6);
  EXPECT_EQ(padded.ids.size(), 6u);
  EXPECT_EQ(padded.ids.back(), 0);
  EXPECT_EQ(padded.mask.back(), 0);
  EXPECT_EQ(padded.mask.front(), 1);
}

TEST(Tokenizer, NegativePromptTakesTheLengthAndMaskOfThePrompt) {
  const Tokenizer tokenizer(kTinyTokenizer);
  const TokenSequence prompt = tokenizer.EncodePadded("a cat", 32);
  const auto visible = std::count(prompt.mask.begin(), prompt.mask.end(), 1);
  for (const char* negative : {"", "no", "blurry, low quality, deformed hands, text, watermark"}) {
    const TokenSequence got = tokenizer.EncodeNegative(negative, prompt);
    EXPECT_EQ(got.mask, prompt.mask) << negative;
    const std::vector<int64_t> own = tokenizer.Encode(negative);
    const size_t kept = std::min<size_t>(own.size(), visible);
    EXPECT_EQ(got.ids[kept - 1], 1) << negative;
    for (size_t i = 0; i + 1 < kept; ++i) EXPECT_EQ(got.ids[i], own[i]) << negative;
    for (size_t i = kept; i < got.ids.size(); ++i) EXPECT_EQ(got.ids[i], 0) << negative;
  }
}

TEST(Tokenizer, AcceptsAnyBytes) {
  const Tokenizer tokenizer(kTinyTokenizer);
  for (const std::string text :
       {std::string("\xff\xfe\x80"), std::string("a\0b", 3), std::string("<extra_id_"),
        std::string("<<<>>>"), std::string(20000, '<'), std::string("한국어 🎥")}) {
    const std::vector<int64_t> ids = tokenizer.Encode(text);
    EXPECT_EQ(ids.back(), 1);
    for (const int64_t id : ids) EXPECT_LT(id, tokenizer.vocabulary());
  }
  // A run of unknown characters is one id.
  EXPECT_THAT(tokenizer.Encode("한국어"), ElementsAre(3, 2, 1));
}

TEST(Tokenizer, RefusesFilesThatAreNoModels) {
  const auto kind_of = [](const std::string& path) {
    try {
      Tokenizer tokenizer(path);
    } catch (const ModelError& error) {
      return std::optional(error.kind());
    }
    return std::optional<ModelError::Kind>();
  };
  const std::string folder = ::testing::TempDir() + "/tokenizer_test";
  std::filesystem::create_directories(folder);
  std::ifstream good(kTinyTokenizer, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(good), std::istreambuf_iterator<char>()};
  std::ofstream(folder + "/cut", std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  std::ofstream(folder + "/text", std::ios::binary) << "hello";
  std::ofstream(folder + "/empty", std::ios::binary);
  EXPECT_EQ(kind_of(folder + "/missing"), ModelError::Kind::kNotFound);
  for (const char* name : {"/cut", "/text", "/empty"}) {
    EXPECT_EQ(kind_of(folder + name), ModelError::Kind::kDataLoss) << name;
  }
}

TEST(TextEncoder, TrimsAndMasks) {
  at::NoGradGuard no_grad;
  TextEncoder encoder(SmallConfig());
  Initialize(encoder);
  const at::Tensor ids = at::randint(3, 600, {2, 16}, at::kLong);
  at::Tensor mask = at::zeros({2, 16}, at::kLong);
  mask.narrow(1, 0, 5).fill_(1);
  mask[1].narrow(0, 3, 2).fill_(0);
  const TextContext text = encoder.Encode(ids, mask);
  EXPECT_EQ(text.context.sizes(), (std::vector<int64_t>{2, 6, 20}));
  EXPECT_TRUE(text.mask.equal(mask.narrow(1, 0, 6).to(at::kBool)));
  EXPECT_EQ(text.context[1].narrow(0, 3, 3).abs().max().item<float>(), 0);
  EXPECT_GT(text.context[0][4].abs().max().item<float>(), 0);
  // What stands behind the mask has no influence.
  at::Tensor other = ids.clone();
  other.narrow(1, 5, 11).fill_(7);
  EXPECT_LT((encoder.Encode(other, mask).context - text.context)[0].abs().max().item<float>(),
            1e-5);
  // A full mask leaves no masked row.
  EXPECT_EQ(encoder.Encode(ids, at::ones({2, 16}, at::kLong)).context.size(1), 16);
  EXPECT_THROW(encoder.Encode(ids + 640, mask), ModelError);
}

TEST(TextEncoder, NonFiniteEmbeddingsBecomeAZeroPrompt) {
  at::NoGradGuard no_grad;
  TextEncoder encoder(SmallConfig());
  Initialize(encoder);
  for (auto& parameter : encoder.t5().named_parameters()) {
    if (parameter.key() == "shared.weight") parameter.value()[9].fill_(INFINITY);
  }
  const at::Tensor mask = at::ones({1, 16}, at::kLong);
  const TextContext text = encoder.Encode(at::full({1, 16}, 9, at::kLong), mask);
  EXPECT_EQ(text.context.sizes(), (std::vector<int64_t>{1, 1, 20}));
  EXPECT_EQ(text.context.abs().max().item<float>(), 0);
  EXPECT_FALSE(text.mask.any().item<bool>());
}

TEST(TextEncoder, LowPrecisionStaysCloseToFloat32) {
  at::NoGradGuard no_grad;
  TextEncoder encoder(SmallConfig());
  Initialize(encoder);
  const at::Tensor ids = at::randint(3, 600, {1, 16}, at::kLong);
  const at::Tensor mask = at::ones({1, 16}, at::kLong);
  const at::Tensor want = encoder.Encode(ids, mask).context;
  const struct {
    at::ScalarType dtype;
    double limit;
  } tests[] = {{at::kBFloat16, 0.1}, {at::kHalf, 0.012}};
  for (const auto& test : tests) {
    TextEncoder low(SmallConfig());
    Initialize(low);
    low.t5().to(test.dtype);
    const at::Tensor got = low.Encode(ids, mask).context;
    EXPECT_EQ(got.scalar_type(), at::kFloat);
    EXPECT_LT(((got - want).abs().mean() / want.abs().mean()).item<double>(), test.limit)
        << test.dtype;
  }
}

TEST(EncodePrompt, BothContextsHaveOneLength) {
  const Tokenizer tokenizer(kTinyTokenizer);
  TextEncoder encoder(SmallConfig());
  Initialize(encoder);
  const std::string negative = "blurry, low quality, text, watermark";
  const EncodedPrompt both = EncodePrompt(tokenizer, encoder, "a cat", &negative);
  EXPECT_EQ(both.positive.context.sizes(), both.negative.context.sizes());
  EXPECT_TRUE(both.positive.mask.equal(both.negative.mask));
  EXPECT_FALSE(both.positive.context.equal(both.negative.context));
  const EncodedPrompt alone = EncodePrompt(tokenizer, encoder, "a cat", nullptr);
  EXPECT_FALSE(alone.negative.context.defined());
  EXPECT_LT((alone.positive.context - both.positive.context).abs().max().item<float>(), 1e-5);
}

EncodedPrompt Value(int64_t floats) {
  EncodedPrompt value;
  value.positive.context = at::zeros({1, 1, floats});
  return value;
}

TEST(EmbeddingCache, KeepsTheMostRecentlyUsedWithinItsBounds) {
  EmbeddingCache cache(2, 1000);
  int computed = 0;
  const auto get = [&](const std::string& prompt, int64_t floats = 10) {
    cache.GetOrCompute({"m", prompt, ""}, [&] {
      ++computed;
      return Value(floats);
    });
  };
  get("a");
  get("a");
  EXPECT_EQ(computed, 1);
  EXPECT_EQ(cache.hits(), 1);
  get("b");
  get("a");  // now b is the oldest
  get("c");
  EXPECT_EQ(cache.size(), 2u);
  get("a");
  EXPECT_EQ(computed, 3);
  get("b");
  EXPECT_EQ(computed, 4);
  get("large", 1000);  // 4000 bytes: not kept
  get("large", 1000);
  EXPECT_EQ(computed, 6);
  EXPECT_LE(cache.bytes(), 1000);
  get("half", 240);  // pushes the others out
  EXPECT_EQ(cache.size(), 2u);
  EXPECT_EQ(cache.bytes(), 1000);
}

TEST(EmbeddingCache, TellsKeysApartAndForgetsFailures) {
  EmbeddingCache cache(8, 1 << 20);
  const EmbeddingCache::Key keys[] = {
      {"m", "a", ""}, {"n", "a", ""}, {"m", "", "a"}, {"m", "a", "b"}};
  int64_t floats = 1;
  for (const auto& key : keys) cache.GetOrCompute(key, [&] { return Value(floats++); });
  floats = 1;
  for (const auto& key : keys) {
    const EncodedPrompt got = cache.GetOrCompute(key, []() -> EncodedPrompt {
      ADD_FAILURE() << "computed again";
      return {};
    });
    EXPECT_EQ(got.positive.context.size(2), floats++);
  }
  const auto fails = [&] {
    cache.GetOrCompute({"m", "bad", ""}, []() -> EncodedPrompt { throw std::runtime_error("no"); });
  };
  EXPECT_THROW(fails(), std::runtime_error);
  EXPECT_EQ(cache.size(), 4u);
}

// The recorded text encoders of the parity cases, whose float32 contexts are known.
TEST(TextEncoder, Int8WeightsStayNearTheRecordedContexts) {
  const std::string parity = std::string(KANDINSKY_SOURCE_DIR) + "/tests/parity/";
  for (const auto& [name, prompts] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"text_encoder_gelu", {"len40."}}, {"text_encoder_silu", {"len17.", "len128."}}}) {
    const std::string directory = parity + name + "/";
    const nlohmann::json recorded = ReadJsonFile(directory + "case.json");
    TextEncoder encoder(TextEncoderConfig::FromJson(recorded.at("config")));
    LoadInto(encoder.t5(), *OpenCheckpoint(directory + "weights.safetensors"),
             {.ignored = {"decoder.", "lm_head."},
              .aliases = {{"shared.weight", {"encoder.embed_tokens.weight"}}}});
    LoadInto(encoder.projection(), *OpenCheckpoint(directory + "projections.safetensors"));
    const at::NoGradGuard no_grad;
    int matrices = 0;
    encoder.t5().ForEachMatrix([&](StoredMatrix& matrix) {
      const at::Tensor before = matrix.weight.clone();
      matrix.Quantize();
      ASSERT_EQ(matrix.weight.scalar_type(), at::kChar);
      EXPECT_TRUE(((matrix.weight * matrix.scale - before).abs() <= matrix.scale * 0.5001)
                      .all()
                      .item<bool>());
      matrix.Quantize();  // does nothing
      ++matrices;
    });
    EXPECT_EQ(matrices, 7 * encoder.config().num_layers);
    const auto inputs = OpenCheckpoint(directory + "inputs.safetensors");
    const auto outputs = OpenCheckpoint(directory + "outputs.safetensors");
    for (const std::string& prompt : prompts) {
      const TextContext got = encoder.Encode(inputs->Read(prompt + "input_ids"),
                                             inputs->Read(prompt + "attention_mask"));
      const at::Tensor want = outputs->Read(prompt + "context");
      ASSERT_EQ(got.context.sizes(), want.sizes());
      const double error =
          ((got.context - want).pow(2).mean() / want.pow(2).mean()).sqrt().item<double>();
      std::printf("%s %s int8: %.4f of the root mean square\n", name.c_str(), prompt.c_str(),
                  error);
      EXPECT_GT(error, 1e-5);  // it is int8
      EXPECT_LT(error, 0.03);
    }
  }
}

TEST(StoredMatrix, MultipliesInTheTypeOfItsInput) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({3, 5, 16}), weight = at::randn({8, 16});
  const at::Tensor want = at::linear(x, weight);
  StoredMatrix narrow(8, 16, at::kBFloat16);
  narrow.weight.copy_(weight);
  EXPECT_EQ(narrow.Multiply(x).scalar_type(), at::kFloat);
  EXPECT_TRUE(narrow.Multiply(x).allclose(want, 0.02, 0.1));
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    StoredMatrix matrix(8, 16, at::kFloat);
    matrix.weight.copy_(weight);
    matrix.Quantize();
    const at::Tensor got = matrix.Multiply(x.to(dtype));
    EXPECT_EQ(got.scalar_type(), dtype);
    EXPECT_TRUE(got.to(at::kFloat).allclose(want, 0.02, 0.15)) << dtype;
  }
  StoredMatrix zero(8, 16, at::kFloat);
  zero.weight.zero_();
  zero.Quantize();
  EXPECT_TRUE(zero.Multiply(x).equal(at::zeros({3, 5, 8})));
}

}  // namespace
}  // namespace kandinsky::model
