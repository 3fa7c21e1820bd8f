#include "worker/stages/stages.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "common/base/crc32c.h"
#include "worker/model/error.h"
#include "worker/stages/frame_encoder.h"
#include "worker/stages/preview.h"
#include "worker/stages/status_translation.h"
#include "worker/stages/tensor_codec.h"

namespace kandinsky {
namespace {

using model::ModelError;

TEST(StatusTranslationTest, Table) {
  const struct {
    const char* name;
    std::function<void()> raise;
    absl::StatusCode want;
    std::string want_message;
  } kCases[] = {
      {"bad argument", [] { throw ModelError(ModelError::Kind::kInvalidArgument, "w"); },
       absl::StatusCode::kInvalidArgument, "w"},
      {"not found", [] { throw ModelError(ModelError::Kind::kNotFound, "w"); },
       absl::StatusCode::kNotFound, "w"},
      {"damaged", [] { throw ModelError(ModelError::Kind::kDataLoss, "w"); },
       absl::StatusCode::kDataLoss, "w"},
      {"cancelled", [] { throw ModelError(ModelError::Kind::kCancelled, "w"); },
       absl::StatusCode::kCancelled, "w"},
      {"host memory", [] { throw std::bad_alloc(); }, absl::StatusCode::kResourceExhausted,
       "out of host memory"},
      {"LibTorch's CPU allocator", [] { (void)at::empty({int64_t{1} << 46}, at::kByte); },
       absl::StatusCode::kResourceExhausted, ""},
      {"device memory",
       [] { TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate"); },
       absl::StatusCode::kResourceExhausted, "CUDA out of memory. Tried to allocate"},
      {"shapes",
       [] {
         (void)at::ones({2, 3}).matmul(at::ones({2, 3}));
       },
       absl::StatusCode::kInternal, ""},
      {"a status", [] { throw StatusException(absl::DataLossError("s")); },
       absl::StatusCode::kDataLoss, "s"},
      {"standard", [] { throw std::runtime_error("r"); }, absl::StatusCode::kInternal, "r"},
      {"anything", [] { throw 7; }, absl::StatusCode::kInternal, "unknown exception"},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.name);
    const absl::StatusOr<int> got = CatchStatus([&]() -> int {
      c.raise();
      return 1;
    });
    EXPECT_EQ(got.status().code(), c.want) << got.status();
    if (!c.want_message.empty()) EXPECT_EQ(got.status().message(), c.want_message);
    EXPECT_EQ(got.status().message().find('\n'), std::string::npos);
  }
  EXPECT_EQ(*CatchStatus([] { return 3; }), 3);
}

TEST(TensorCodecTest, HostTensorsRoundTrip) {
  const at::Tensor tensor = at::arange(2 * 4 * 3 * 5, at::kFloat).reshape({2, 4, 3, 5}).div(7);
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const at::Tensor given = tensor.to(dtype).transpose(2, 3);  // not contiguous
    const auto host = ToHostTensor(given);
    ASSERT_TRUE(host.ok()) << host.status();
    EXPECT_EQ(host->shape(), (std::vector<int64_t>{2, 4, 5, 3}));
    EXPECT_TRUE(at::equal(FromHostTensor(*host), given.to(at::kFloat)));
  }
  EXPECT_FALSE(ToHostTensor(at::ones({2}, at::kLong)).ok());
  EXPECT_TRUE(ToHostTensor(at::ones({0, 4})).ok());
}

model::StageCheckpoint Checkpoint(bool everything) {
  model::StageCheckpoint checkpoint;
  checkpoint.pass = 1;
  checkpoint.next_step = 37;
  checkpoint.x = at::randn({2, 4, 3, 3});
  checkpoint.x[0][0][0][0] = std::numeric_limits<float>::infinity();
  if (everything) {
    checkpoint.previous_x0 = at::randn({2, 4, 3, 3});
    checkpoint.video = at::randn({5, 4, 3, 3});
  }
  return checkpoint;
}

TEST(TensorCodecTest, CheckpointsRoundTripBitForBit) {
  for (const bool everything : {false, true}) {
    const model::StageCheckpoint want = Checkpoint(everything);
    const auto got =
        DecodeCheckpoint(Stage::kInterpolation, EncodeCheckpoint(Stage::kInterpolation, want));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->pass, want.pass);
    EXPECT_EQ(got->next_step, want.next_step);
    EXPECT_TRUE(at::equal(got->x, want.x));
    EXPECT_EQ(got->previous_x0.defined(), everything);
    EXPECT_EQ(got->video.defined(), everything);
    if (everything) {
      EXPECT_TRUE(at::equal(got->previous_x0, want.previous_x0));
      EXPECT_TRUE(at::equal(got->video, want.video));
    }
  }
}

TEST(TensorCodecTest, HostileCheckpoints) {
  const std::string good = EncodeCheckpoint(Stage::kKeyframes, Checkpoint(true));
  for (size_t i = 0; i < good.size(); i += i < 64 ? 1 : 61) {
    std::string flipped = good;
    flipped[i] = static_cast<char>(flipped[i] ^ 1 << i % 8);
    EXPECT_FALSE(DecodeCheckpoint(Stage::kKeyframes, flipped).ok()) << i;
    EXPECT_FALSE(DecodeCheckpoint(Stage::kKeyframes, good.substr(0, i)).ok()) << i;
  }
  EXPECT_EQ(DecodeCheckpoint(Stage::kInterpolation, good).status().code(),
            absl::StatusCode::kFailedPrecondition);
  // With a right checksum, so that what is behind it is reached.
  const auto sealed = [](std::string body) {
    const uint32_t crc = Crc32c(body);
    body.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
    return body;
  };
  const std::string body = good.substr(0, good.size() - 4);
  const struct {
    const char* name;
    size_t offset;
    uint64_t value;
    size_t width;
  } kCases[] = {{"version", 4, 2, 4},
                {"pass", 12, 0xffffffff, 4},
                {"step", 16, UINT64_MAX, 8},
                {"count", 24, 4, 4},
                {"rank", 28, 9, 4},
                {"huge rank", 28, 0xfffffffe, 4},
                {"huge dimension", 32, uint64_t{1} << 60, 8},
                {"negative dimension", 32, UINT64_MAX, 8},
                {"one more row than there is", 32, 3, 8},
                {"no state", 28, 0xffffffff, 4}};
  for (const auto& c : kCases) {
    std::string bad = body;
    bad.replace(c.offset, c.width, std::string(reinterpret_cast<const char*>(&c.value), c.width));
    EXPECT_FALSE(DecodeCheckpoint(Stage::kKeyframes, sealed(bad)).ok()) << c.name;
  }
  EXPECT_FALSE(DecodeCheckpoint(Stage::kKeyframes, sealed(body + "x")).ok());
  EXPECT_TRUE(DecodeCheckpoint(Stage::kKeyframes, sealed(body)).ok());
}

TEST(PreviewTest, Sizes) {
  const struct {
    int frames, width, height, side, want_width, want_height;
  } kCases[] = {{16, 128, 128, 96, 8 * 96, 2 * 96},
                {16, 64, 32, 96, 8 * 64, 2 * 32},
                {3, 512, 256, 64, 3 * 64, 32},
                {1, 8, 8, 1, 1, 1}};
  for (const auto& c : kCases) {
    const auto preview =
        MakePreview(at::full({c.frames, c.height, c.width, 3}, 200, at::kByte), c.side);
    ASSERT_TRUE(preview.ok()) << preview.status();
    EXPECT_EQ(preview->width, c.want_width);
    EXPECT_EQ(preview->height, c.want_height);
    EXPECT_EQ(preview->png.substr(1, 3), "PNG");
  }
  EXPECT_FALSE(MakePreview(at::zeros({4, 4, 3}, at::kByte), 8).ok());
}

// Encoding in the other thread gives what encoding here gives, and an error of the sink comes back.
TEST(FrameEncoderTest, SameBytesAndErrors) {
  media::VideoEncoder::Options options;
  options.format = media::Format::kGif;
  options.width = 32;
  options.height = 32;
  options.fps = {10, 1};
  const at::Tensor frames = at::randint(0, 255, {12, 32, 32, 3}, at::kByte);
  std::string plain;
  auto encoder = media::VideoEncoder::Create(options, [&](std::string_view data) {
    plain += data;
    return absl::OkStatus();
  });
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  for (int64_t i = 0; i < 12; ++i) {
    ASSERT_TRUE((*encoder)->AddFrame(frames[i].const_data_ptr<uint8_t>()).ok());
  }
  ASSERT_TRUE((*encoder)->Finish().ok());

  std::string piped;
  FrameEncoder other(*media::VideoEncoder::Create(options, [&](std::string_view data) {
    piped += data;
    return absl::OkStatus();
  }));
  for (int64_t i = 0; i < 12; i += 3) ASSERT_TRUE(other.Add(frames.narrow(0, i, 3)).ok());
  const auto totals = other.Finish();
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->frames, 12);
  EXPECT_EQ(piped, plain);

  FrameEncoder failing(*media::VideoEncoder::Create(
      options, [](std::string_view) { return absl::ResourceExhaustedError("full"); }));
  absl::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i) status = failing.Add(frames);
  if (status.ok()) status = failing.Finish().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST(MakeStageTest, BadOptionsAreErrors) {
  const struct {
    const char* name;
    StageOptions options;
  } kCases[] = {
      {"no models", {}},
      {"device", {.model_dirs = {"x"}, .execution = {{"device", "quantum"}}}},
      {"dtype", {.model_dirs = {"x"}, .execution = {{"device", "cpu"}, {"dtype", "int3"}}}},
      {"threads", {.model_dirs = {"x"}, .execution = {{"device", "cpu"}}, .threads = -1}},
      {"threads", {.model_dirs = {"x"}, .execution = {{"device", "cpu"}}, .threads = 1025}}};
  for (const auto& c : kCases) {
    EXPECT_EQ(MakeStage(Stage::kKeyframes, c.options).status().code(),
              absl::StatusCode::kInvalidArgument)
        << c.name;
  }
  for (const Stage stage : kStages) {
    auto runner = MakeStage(
        stage, {.model_dirs = {"/nowhere"}, .execution = {{"device", "cpu"}}, .threads = 1});
    ASSERT_TRUE(runner.ok()) << runner.status();
    EXPECT_TRUE(absl::IsNotFound((*runner)->Load())) << Name(stage);
  }
}

TEST(MakeStageTest, RefusesAModelThatCannotFit) {
  for (const Stage stage : kStages) {
    auto runner =
        MakeStage(stage, {.model_dirs = {std::string(KANDINSKY_SOURCE_DIR) + "/models/tiny"},
                          .execution = {{"device", "cpu"}, {"device_memory_bytes", "1MB"}},
                          .threads = 1});
    ASSERT_TRUE(runner.ok()) << runner.status();
    const absl::Status status = (*runner)->Load();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find("of device memory for " + std::string(Name(stage))),
              std::string::npos)
        << status;
  }
}

}  // namespace
}  // namespace kandinsky
