// The domain written as MP4 files, and folders of videos read back.
#include "training/data/video_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "training/data/order.h"
#include "training/data/resize.h"
#include "training/domain/export.h"
#include "training/eval/judge.h"
#include "training/eval/metrics.h"
#include "worker/media/video_encoder.h"
#include "worker/media/video_reader.h"

namespace kandinsky::training {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("video_folder_test_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A video whose frame i is flat with the level `level(i)`, left third black, right third white
  // where it is wide.
  void WriteVideo(const std::string& name, int frames, int fps, int height, int width,
                  const std::function<int(int)>& level,
                  media::Format format = media::Format::kMp4) {
    std::string bytes;
    media::VideoEncoder::Options options;
    options.format = format;
    options.width = width;
    options.height = height;
    options.fps = {fps, 1};
    options.quality = 100;
    auto encoder = media::VideoEncoder::Create(options, [&](std::string_view data) {
      bytes += data;
      return absl::OkStatus();
    });
    ASSERT_TRUE(encoder.ok()) << encoder.status();
    for (int i = 0; i < frames; ++i) {
      Bytes rgb(static_cast<size_t>(height) * width * 3, static_cast<uint8_t>(level(i)));
      if (width >= 3 * height) {
        for (int y = 0; y < height; ++y) {
          uint8_t* row = rgb.data() + static_cast<size_t>(y) * width * 3;
          std::fill(row, row + width, 0);
          std::fill(row + 2 * width, row + 3 * width, 255);
        }
      }
      ASSERT_TRUE((*encoder)->AddFrame(rgb.data()).ok());
    }
    ASSERT_TRUE((*encoder)->Finish().ok());
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  void WriteText(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  fs::path folder_;
};

TEST_F(DataTest, DatasetIsReadBackAsItWasDrawn) {
  for (const bool dense : {false, true}) {
    DatasetOptions options;
    options.out = (folder_ / (dense ? "dense" : "keyframes")).string();
    options.count = dense ? 3 : 12;
    options.seed = 5;
    options.first = 100;
    options.dense = dense;
    options.threads = 2;
    int64_t last = 0;
    ASSERT_TRUE(WriteDataset(options, [&](int64_t done) { last = done; }).ok());
    EXPECT_EQ(last, options.count);

    // At 2 fps, the dense clip shows its keyframes.
    const auto folder = VideoFolder::Open({.folder = options.out, .random_start = false});
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ(folder->size(), options.count);
    std::set<std::string> seen;
    for (int64_t n = 0; n < options.count; ++n) {
      const auto sample = folder->Get(9, n);
      ASSERT_TRUE(sample.ok()) << sample.status();
      seen.insert(sample->file);
      const uint64_t index = std::stoull(sample->file.substr(5, 8));
      const ClipSpec clip = ClipAt(5, index, options.clip);
      EXPECT_EQ(sample->text, CaptionAt(5, index, clip, options.caption).text);
      EXPECT_EQ(sample->start, 0);
      const Bytes want = RenderClip(clip, kKeyframes, 64, 64);
      // Colour is stored at half the size, so the edges are not exact; neighbours in time are far.
      EXPECT_GT(Psnr(sample->rgb, want), 26) << sample->file;
      const Verdict verdict = Judge(sample->rgb.data(), kKeyframes, 64, 64);
      EXPECT_EQ(verdict.shape, clip.shape);
      EXPECT_EQ(verdict.color, clip.color);
      EXPECT_EQ(verdict.background, clip.background);
      EXPECT_EQ(verdict.motion, clip.motion);
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(options.count));
  }
}

TEST_F(DataTest, DatasetGoesOnWhereItWas) {
  DatasetOptions options;
  options.out = (folder_ / "data").string();
  options.count = 4;
  options.size = 32;
  ASSERT_TRUE(WriteDataset(options).ok());
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(options.out)) {
    files[entry.path().filename().string()] = ReadFile(entry.path());
  }
  EXPECT_EQ(files.size(), 6u);
  std::istringstream captions(files["captions.jsonl"]);
  std::string line;
  for (int i = 0; std::getline(captions, line); ++i) {
    const nlohmann::json json = nlohmann::json::parse(line);
    const ClipSpec clip = ClipAt(0, i, options.clip);
    EXPECT_EQ(json["color"], Name(clip.color));
    EXPECT_EQ(json["motion"], Name(clip.motion));
    EXPECT_TRUE(files.contains(json["file"]));
  }
  // As after a kill: a clip and the captions are missing, a part of a file lies about.
  fs::remove(folder_ / "data" / "clip-00000002.mp4");
  fs::remove(folder_ / "data" / "captions.jsonl");
  WriteText("data/clip-00000002.mp4.part", "half");
  options.threads = 1;
  ASSERT_TRUE(WriteDataset(options).ok());
  for (const auto& [name, bytes] : files)
    EXPECT_EQ(ReadFile(folder_ / "data" / name), bytes) << name;
  options.seed = 1;
  EXPECT_EQ(WriteDataset(options).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DataTest, WrongDatasetOptionsAreNamed) {
  struct Case {
    std::function<void(DatasetOptions&)> change;
    const char* want;
  };
  const std::vector<Case> cases = {
      {[](DatasetOptions& o) { o.out.clear(); }, "out: a folder is needed"},
      {[](DatasetOptions& o) { o.count = 0; }, "count: 0 is not in 1 to 100000000"},
      {[](DatasetOptions& o) { o.size = 63; }, "size: 63 is not even and in 16 to 4096"},
      {[](DatasetOptions& o) { o.quality = 101; }, "quality: 101 is not in 0 to 100"},
      {[](DatasetOptions& o) { o.caption.russian = 1.5; }, "russian: 1.5 is not in 0 to 1"},
      {[](DatasetOptions& o) { o.caption.leave_out = -1; }, "leave_out: -1 is not in 0 to 1"},
  };
  for (const Case& c : cases) {
    DatasetOptions options;
    options.out = (folder_ / "wrong").string();
    options.count = 1;
    c.change(options);
    const absl::Status status = WriteDataset(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), c.want);
    EXPECT_FALSE(std::filesystem::exists(folder_ / "wrong"));
  }
}

TEST_F(DataTest, TakesFramesAtTheRateAsked) {
  // 40 frames at 10 fps, frame i at level 6 i.
  WriteVideo("a.mp4", 40, 10, 16, 16, [](int i) { return 6 * i; });
  WriteText("a.txt", "a ramp\n\n  from dark to light \r\n");
  struct Case {
    double fps;
    int frames;
    std::vector<int> want;  // numbers of frames of the video
  };
  const std::vector<Case> cases = {
      {10, 4, {0, 1, 2, 3}},
      {5, 4, {0, 2, 4, 6}},
      {4, 4, {0, 2, 5, 7}},  // 0, 0.25, 0.5, 0.75 s
      {20, 6, {0, 0, 1, 1, 2, 2}},
      {1, 4, {0, 10, 20, 30}},
      {10, 40, {}},  // all of them; checked at the ends
  };
  for (const Case& c : cases) {
    const auto folder = VideoFolder::Open({.folder = folder_.string(),
                                           .frames = c.frames,
                                           .fps = c.fps,
                                           .height = 16,
                                           .width = 16,
                                           .random_start = false});
    ASSERT_TRUE(folder.ok()) << folder.status();
    const auto sample = folder->Get(1, 0);
    ASSERT_TRUE(sample.ok()) << sample.status();
    ASSERT_EQ(sample->rgb.size(), c.frames * 16u * 16 * 3);
    for (size_t i = 0; i < c.want.size(); ++i) {
      EXPECT_NEAR(sample->rgb[i * 16 * 16 * 3 + 300], 6 * c.want[i], 2.5) << c.fps << " " << i;
    }
    EXPECT_NEAR(sample->rgb[(c.frames - 1) * 16 * 16 * 3 + 300],
                6 * std::floor((c.frames - 1) * 10 / c.fps + 1e-6), 2.5);
  }
  // 41 frames at 10 fps and 5 at 1 fps do not fit into 4 seconds.
  for (const auto& [fps, frames] : {std::pair{10.0, 41}, {1.0, 5}}) {
    const auto folder =
        VideoFolder::Open({.folder = folder_.string(), .frames = frames, .fps = fps});
    EXPECT_EQ(folder.status().code(), absl::StatusCode::kNotFound) << folder.status();
  }
}

TEST_F(DataTest, StartsAtRandomMoments) {
  WriteVideo("a.mp4", 40, 10, 16, 16, [](int i) { return 6 * i; });
  WriteText("a.txt", "one\ntwo\n");
  const auto folder = VideoFolder::Open(
      {.folder = folder_.string(), .frames = 4, .fps = 4, .height = 16, .width = 16});
  ASSERT_TRUE(folder.ok()) << folder.status();
  std::set<int> starts;
  std::set<std::string> texts;
  for (int n = 0; n < 60; ++n) {
    const auto sample = folder->Get(3, n);
    ASSERT_TRUE(sample.ok()) << sample.status();
    ASSERT_GE(sample->start, 0);
    ASSERT_LT(sample->start, 4 - 0.75);
    for (int i = 0; i < 4; ++i) {
      const int want = static_cast<int>(std::floor((sample->start + i / 4.0 + 1e-3) * 10));
      EXPECT_NEAR(sample->rgb[i * 16 * 16 * 3], 6 * want, 2.5) << sample->start << " " << i;
    }
    starts.insert(static_cast<int>(sample->start * 10));
    texts.insert(sample->text);
    const auto again = folder->Get(3, n);
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(again->rgb, sample->rgb);
    EXPECT_EQ(again->text, sample->text);
  }
  EXPECT_GT(starts.size(), 20u);
  EXPECT_EQ(texts, (std::set<std::string>{"one", "two"}));
}

TEST_F(DataTest, EpochsShardsAndThreads) {
  for (int i = 0; i < 7; ++i) {
    WriteVideo("v" + std::to_string(i) + ".mp4", 4, 2, 16, 16, [&](int) { return 30 * i; });
  }
  VideoFolderOptions options{
      .folder = folder_.string(), .frames = 2, .height = 16, .width = 16, .without_captions = true};
  const auto folder = VideoFolder::Open(options);
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_EQ(folder->size(), 7);
  std::set<std::vector<std::string>> orders;
  for (int epoch = 0; epoch < 5; ++epoch) {
    std::vector<std::string> order(7);
    std::vector<std::thread> threads;
    for (int i = 0; i < 7; ++i) {
      threads.emplace_back([&, i] {
        const auto sample = folder->Get(1, epoch * 7 + i);
        if (sample.ok()) order[i] = sample->file;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(std::set<std::string>(order.begin(), order.end()).size(), 7u);
    EXPECT_FALSE(std::count(order.begin(), order.end(), ""));
    orders.insert(order);
  }
  EXPECT_GE(orders.size(), 4u);

  std::set<std::string> all;
  for (int shard = 0; shard < 3; ++shard) {
    options.shard = shard;
    options.shards = 3;
    const auto part = VideoFolder::Open(options);
    ASSERT_TRUE(part.ok());
    EXPECT_EQ(part->size(), shard == 0 ? 3 : 2);
    for (int i = 0; i < part->size(); ++i) EXPECT_TRUE(all.insert(part->Get(1, i)->file).second);
  }
  EXPECT_EQ(all.size(), 7u);
}

TEST_F(DataTest, CutsTheMiddleOfWideVideos) {
  WriteVideo("a.mp4", 4, 2, 48, 144, [](int) { return 128; });
  WriteText("a.txt", "gray\n");
  const auto folder =
      VideoFolder::Open({.folder = folder_.string(), .frames = 2, .height = 24, .width = 24});
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto sample = folder->Get(1, 0);
  ASSERT_TRUE(sample.ok());
  for (int x = 2; x < 22; ++x) EXPECT_NEAR(sample->rgb[(12 * 24 + x) * 3], 128, 8) << x;
}

TEST_F(DataTest, ReadsCaptionsAndLeavesOutWhatItCannotUse) {
  WriteVideo("sub/a.mp4", 20, 2, 16, 16, [](int) { return 10; });
  WriteVideo(
      "b.webm", 20, 2, 16, 16, [](int) { return 20; }, media::Format::kWebm);
  WriteVideo("short.mp4", 3, 2, 16, 16, [](int) { return 30; });
  WriteVideo("silent.mp4", 20, 2, 16, 16, [](int) { return 40; });
  WriteText("broken.mp4", "this is no video");
  WriteText("notes.txt", "not a video");
  WriteText("captions.jsonl",
            "{\"file\": \"sub/a.mp4\", \"text\": \"first\", \"more\": 1}\n\n"
            "{\"file\": \"./sub/a.mp4\", \"text\": \"второй\"}\n"
            "{\"file\": \"short.mp4\", \"text\": \"s\"}\n"
            "{\"file\": \"broken.mp4\", \"text\": \"s\"}\n"
            "{\"file\": \"gone.mp4\", \"text\": \"s\"}\n");
  WriteText("b.txt", "only one");
  VideoFolderOptions options{.folder = folder_.string()};
  auto folder = VideoFolder::Open(options);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->size(), 2);
  EXPECT_EQ(folder->left_out().too_short, 1);
  EXPECT_EQ(folder->left_out().unreadable, 1);
  EXPECT_EQ(folder->left_out().without_caption, 1);
  std::map<std::string, std::set<std::string>> texts;
  for (int n = 0; n < 40; ++n) {
    const auto sample = folder->Get(1, n);
    ASSERT_TRUE(sample.ok()) << sample.status();
    texts[sample->file].insert(sample->text);
  }
  EXPECT_EQ(texts["sub/a.mp4"], (std::set<std::string>{"first", "второй"}));
  EXPECT_EQ(texts["b.webm"], (std::set<std::string>{"only one"}));

  options.without_captions = true;
  folder = VideoFolder::Open(options);
  ASSERT_TRUE(folder.ok());
  EXPECT_EQ(folder->size(), 3);

  // A file that breaks after the folder was opened.
  WriteText("silent.mp4", "gone");
  int failed = 0;
  for (int n = 0; n < 6; ++n) {
    const auto sample = folder->Get(1, n);
    failed += !sample.ok();
    if (!sample.ok()) {
      EXPECT_EQ(sample.status().code(), absl::StatusCode::kDataLoss) << sample.status();
    }
    const auto readable = folder->GetReadable(1, n);
    ASSERT_TRUE(readable.ok()) << readable.status();
    EXPECT_NE(readable->file, "silent.mp4");
    if (sample.ok()) {
      EXPECT_EQ(readable->rgb, sample->rgb);
    }
  }
  EXPECT_EQ(failed, 2);

  WriteText("captions.jsonl", "{\"file\": \"sub/a.mp4\", \"text\": \"a\"}\n{\"file\": 3}\n");
  folder = VideoFolder::Open(options);
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(folder.status().message()).find("line 2"), std::string::npos);
}

TEST_F(DataTest, RefusesBadOptions) {
  const std::string path = folder_.string();
  struct Case {
    VideoFolderOptions options;
    absl::StatusCode want;
    std::string name;
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const std::vector<Case> cases = {
      {{.folder = path + "/none"}, absl::StatusCode::kNotFound, "folder"},
      {{.folder = path}, absl::StatusCode::kNotFound, "folder"},
      {{.folder = path, .frames = 0}, invalid, "frames"},
      {{.folder = path, .fps = 0}, invalid, "fps"},
      {{.folder = path, .height = 4}, invalid, "height"},
      {{.folder = path, .width = 100000}, invalid, "width"},
      {{.folder = path, .shard = 2, .shards = 2}, invalid, "shard"},
      {{.folder = path, .shards = 0}, invalid, "shards"},
  };
  for (const Case& c : cases) {
    const auto folder = VideoFolder::Open(c.options);
    EXPECT_EQ(folder.status().code(), c.want);
    EXPECT_TRUE(std::string(folder.status().message()).starts_with(c.name + ":"))
        << folder.status();
  }
}

TEST(OrderTest, IsAPermutation) {
  for (const uint64_t size : {1u, 2u, 3u, 7u, 64u, 1000u, 1025u}) {
    for (const uint64_t epoch : {0u, 1u, 9u}) {
      std::set<uint64_t> seen;
      uint64_t fixed = 0;
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t to = Shuffled(4, epoch, i, size);
        EXPECT_LT(to, size);
        seen.insert(to);
        fixed += to == i;
      }
      EXPECT_EQ(seen.size(), size);
      if (size >= 64) {
        EXPECT_LT(fixed, 12u) << size;  // one on average
      }
    }
  }
  // Every place goes everywhere over the epochs.
  std::vector<int> count(10);
  for (int epoch = 0; epoch < 10000; ++epoch) ++count[Shuffled(1, epoch, 3, 10)];
  for (int n : count) EXPECT_NEAR(n, 1000, 150);
}

TEST(ResizeTest, KeepsFlatPicturesAndMeans) {
  struct Case {
    int height, width, to_height, to_width;
  };
  for (const Case& c : {Case{64, 64, 64, 64}, Case{128, 128, 64, 64}, Case{90, 160, 64, 64},
                        Case{31, 17, 64, 48}, Case{480, 640, 32, 64}, Case{1, 1, 8, 8}}) {
    const ResizeAndCrop resize(c.height, c.width, c.to_height, c.to_width);
    Bytes flat(c.height * c.width * 3, 77);
    Bytes out(c.to_height * c.to_width * 3);
    resize.Apply(flat.data(), out.data());
    EXPECT_EQ(out, Bytes(out.size(), 77)) << c.height << "x" << c.width;
  }
  // The same size changes nothing.
  Bytes noise(20 * 30 * 3);
  std::iota(noise.begin(), noise.end(), 0);
  Bytes out(noise.size());
  ResizeAndCrop(20, 30, 20, 30).Apply(noise.data(), out.data());
  EXPECT_EQ(out, noise);
}

TEST(ResizeTest, ShapesStayWhereTheyAre) {
  // A clip drawn large and shrunk is the clip drawn small: no shift, no aliasing.
  for (int i = 0; i < 10; ++i) {
    const ClipSpec clip = ClipAt(3, i, {});
    const Bytes large = RenderClip(clip, 1, 256, 256);
    const Bytes small = RenderClip(clip, 1, 64, 64);
    Bytes shrunk(small.size());
    ResizeAndCrop(256, 256, 64, 64).Apply(large.data(), shrunk.data());
    EXPECT_GT(Psnr(shrunk, small), 32);
    // From a wide picture, too: the generator draws its square in the middle.
    const Sight sight = JudgeFrame(shrunk.data(), 64, 64);
    EXPECT_NEAR(sight.centroid.x, JudgeFrame(small.data(), 64, 64).centroid.x, 1e-3);
    Bytes wide(128 * 200 * 3);
    RenderFrame(clip, 0, 128, 200, wide.data());
    ResizeAndCrop(128, 200, 64, 64).Apply(wide.data(), shrunk.data());
    EXPECT_GT(Psnr(shrunk, small), 32);
  }
  // A fine checkerboard becomes gray.
  Bytes board(64 * 64 * 3);
  for (int i = 0; i < 64 * 64; ++i) {
    std::fill_n(board.begin() + i * 3, 3, (i + i / 64) % 2 != 0 ? 255 : 0);
  }
  Bytes out(16 * 16 * 3);
  ResizeAndCrop(64, 64, 16, 16).Apply(board.data(), out.data());
  for (int y = 1; y < 15; ++y) {
    for (int x = 1; x < 15; ++x) EXPECT_NEAR(out[(y * 16 + x) * 3], 127.5, 2);
  }
}

}  // namespace
}  // namespace kandinsky::training
