// The checkpoint readers: what they must read, and what they must refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/model/checkpoint_files.h"
#include "worker/model/checkpoint/pickle.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/checkpoint/shape.h"
#include "worker/model/checkpoint/tensor_source.h"
#include "worker/model/checkpoint/torch_file.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::LittleEndian;
using testing::Safetensors;
using testing::TemporaryFolder;
using testing::TorchFile;
using testing::Zip;
using testing::ZipRecord;
namespace pickle = testing::pickle;

const std::string kTestData = std::string(KANDINSKY_SOURCE_DIR) + "/tests/unit/model/testdata/";
const std::string kCases = std::string(KANDINSKY_SOURCE_DIR) + "/tests/parity/";

// What opening the path and reading all of its tensors says; "" when it works.
std::string Complaint(const std::string& path) {
  try {
    const auto source = OpenCheckpoint(path);
    for (const std::string& name : source->Names()) source->Read(name);
    return "";
  } catch (const ModelError& error) {
    return error.what();
  }
}

void ExpectSameTensors(const TensorSource& got, const TensorSource& want) {
  EXPECT_EQ(got.Names(), want.Names());
  for (const std::string& name : want.Names()) {
    ASSERT_NE(got.Find(name), nullptr) << name;
    EXPECT_EQ(ToString(*got.Find(name)), ToString(*want.Find(name))) << name;
    EXPECT_TRUE(at::equal(got.Read(name), want.Read(name))) << name;
  }
}

// ---- reading ----

TEST(DtypeTest, NamesRoundTrip) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong,
                                     at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    EXPECT_EQ(ParseDtype(DtypeName(dtype)), dtype);
  }
  EXPECT_EQ(ParseDtype("BF16"), at::kBFloat16);
  EXPECT_EQ(ParseDtype("float31"), std::nullopt);
}

TEST(ShapeTest, BytesNeverOverflow) {
  struct Case {
    std::vector<int64_t> shape;
    std::optional<int64_t> bytes;
  };
  const int64_t big = int64_t{1} << 62;
  const Case cases[] = {
      {{}, 4},
      {{3}, 12},
      {{2, 3}, 24},
      {{0}, 0},
      {{-1}, {}},
      {{big}, {}},
      {{1 << 30, 1 << 30, 1 << 30}, {}},
      {{0, big}, {}},
      {{0, -1}, {}},
      {std::vector<int64_t>(32, 1), 4},
      {std::vector<int64_t>(33, 1), {}},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(CheckedBytes(at::kFloat, c.shape), c.bytes) << ShapeToString(c.shape);
  }
}

TEST(TorchFileTest, ReadsWhatTorchSaveWrites) {
  ExpectSameTensors(*OpenCheckpoint(kTestData + "zoo.pt"),
                    SafetensorsFile(kTestData + "zoo.safetensors"));
  EXPECT_THAT(OpenCheckpoint(kTestData + "protocol4.pt")->Names(), ElementsAre("a"));
}

TEST(TorchFileTest, ReadsThePublishedLayout) {
  const auto source = OpenCheckpoint(kCases + "pipeline_sharded_bin/weights/kandinsky_video.pt");
  EXPECT_EQ(ToString(*source->Find("unet.in_layer.weight")), "float16 [8, 4, 3, 3]");
  EXPECT_EQ(ToString(*source->Find("projections.t5.0.weight")), "float32 [12, 16]");
  EXPECT_NE(source->Find("null_embedding"), nullptr);
  EXPECT_EQ(source->Find("unet"), nullptr);
  EXPECT_EQ(source->Read("unet.in_layer.weight", at::kFloat).scalar_type(), at::kFloat);
}

TEST(OpenTest, FindsTheCheckpointInAFolder) {
  for (const char* folder :
       {"pipeline_sharded_bin/text_encoder", "pipeline_safetensors/text_encoder"}) {
    const auto source = OpenCheckpoint(kCases + folder);
    EXPECT_NE(source->Find("encoder.final_layer_norm.weight"), nullptr) << source->path();
  }
}

TEST(OpenTest, TiedTensorsOfAShardedCheckpointAreEqual) {
  const auto source = OpenCheckpoint(kCases + "pipeline_sharded_bin/text_encoder");
  EXPECT_TRUE(
      at::equal(source->Read("shared.weight"), source->Read("encoder.embed_tokens.weight")));
  EXPECT_EQ(source->Find("shared.weight")->dtype, at::kBFloat16);
}

TEST(OpenTest, NamesWhatIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(Complaint("/no/such/file.pt"), HasSubstr("/no/such/file.pt: cannot open"));
  EXPECT_THAT(Complaint(folder.path()), HasSubstr("no checkpoint in this directory"));
  EXPECT_THAT(Complaint("/dev/zero"), HasSubstr("not a regular file"));
  folder.Write("a.pt", "");
  EXPECT_THAT(Complaint(folder.path()), HasSubstr("neither safetensors nor"));
  folder.Write("b.pt", "");
  EXPECT_THAT(Complaint(folder.path()), HasSubstr("several checkpoints"));
  const auto source = OpenCheckpoint(kTestData + "zoo.pt");
  EXPECT_THROW(source->Read("no.such.tensor"), ModelError);
}

TEST(ReadTest, ConvertsFloatingPointOnly) {
  const auto source = OpenCheckpoint(kTestData + "zoo.pt");
  EXPECT_EQ(source->Read("float16", at::kFloat).scalar_type(), at::kFloat);
  EXPECT_EQ(source->Read("float32", at::kBFloat16).scalar_type(), at::kBFloat16);
  EXPECT_EQ(source->Read("int64", at::kBFloat16).scalar_type(), at::kLong);
  EXPECT_EQ(source->Read("bool", at::kHalf).scalar_type(), at::kBool);
}

TEST(ReadTest, TensorsOutliveTheFile) {
  const TemporaryFolder folder;
  const at::Tensor want = at::arange(1000, at::kFloat);
  WriteSafetensors(folder.Path("x.safetensors"), {{"x", want}});
  at::Tensor got;
  {
    const auto source = OpenCheckpoint(folder.Path("x.safetensors"));
    got = source->Read("x");
    got += 1;  // its own memory
    EXPECT_TRUE(at::equal(source->Read("x"), want));
  }
  std::filesystem::remove(folder.Path("x.safetensors"));
  EXPECT_TRUE(at::equal(got, want + 1));
}

// ---- writing ----

TEST(SafetensorsWriterTest, RoundTripsEveryType) {
  const TemporaryFolder folder;
  std::map<std::string, at::Tensor> tensors;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong,
                                     at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
    tensors[DtypeName(dtype)] = at::arange(7).remainder(2).to(dtype);
  }
  tensors["scalar"] = at::scalar_tensor(2.5);
  tensors["empty"] = at::empty({3, 0, 2});
  tensors["strided \"name\" \xc3\xa9"] = at::arange(12, at::kFloat).view({3, 4}).t();
  const std::string path = folder.Path("all.safetensors");
  WriteSafetensors(path, tensors, {{"format", "pt"}, {"note", "text"}});

  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("note"), "text");
  EXPECT_EQ(file.Names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_NE(file.Find(name), nullptr) << name;
    EXPECT_TRUE(at::equal(file.Read(name), tensor)) << name;
  }
}

TEST(SafetensorsWriterTest, AnUnfinishedFileLeavesTheOldOne) {
  const TemporaryFolder folder;
  const std::string path = folder.Path("x.safetensors");
  WriteSafetensors(path, {{"old", at::ones({1})}});
  {
    SafetensorsWriter writer(path, {{"new", {at::kFloat, {2}}}});
    EXPECT_THROW(writer.Finish(), ModelError);  // announced, not written
  }
  EXPECT_THAT(SafetensorsFile(path).Names(), ElementsAre("old"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(SafetensorsWriterTest, RefusesWhatWasNotAnnounced) {
  const TemporaryFolder folder;
  const std::string path = folder.Path("x.safetensors");
  SafetensorsWriter writer(path, {{"x", {at::kFloat, {2}}}});
  EXPECT_THROW(writer.Write("y", at::ones({2})), ModelError);
  EXPECT_THROW(writer.Write("x", at::ones({3})), ModelError);
  EXPECT_THROW(writer.Write("x", at::ones({2}, at::kHalf)), ModelError);
  writer.Write("x", at::ones({2}));
  EXPECT_THROW(writer.Write("x", at::ones({2})), ModelError);
  writer.Finish();
  EXPECT_THROW(SafetensorsWriter(path, {{"x", {}}, {"x", {}}}), ModelError);
  EXPECT_THROW(SafetensorsWriter(path, {{"__metadata__", {}}}), ModelError);
  EXPECT_THROW(SafetensorsWriter(folder.Path("no/folder/x.safetensors"), {}), ModelError);
}

// ---- hostile safetensors ----

struct Hostile {
  const char* what;
  std::string bytes;
  const char* complaint;
};

void ExpectRefused(const std::vector<Hostile>& table, const std::string& file_name) {
  const TemporaryFolder folder;
  for (const Hostile& hostile : table) {
    const std::string path = folder.Write(file_name, hostile.bytes);
    const std::string complaint = Complaint(path);
    EXPECT_THAT(complaint, HasSubstr(hostile.complaint)) << hostile.what;
    EXPECT_THAT(complaint, HasSubstr(path)) << hostile.what;
  }
}

std::string One(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"x":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(SafetensorsTest, AcceptsTheLeastFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(Complaint(folder.Write("a.safetensors", Safetensors("{}"))), "");
  EXPECT_EQ(
      Complaint(folder.Write("b.safetensors", Safetensors(One("F32", "[1]", "[0,4]"), "abcd"))),
      "");
  EXPECT_EQ(Complaint(folder.Write("c.safetensors", Safetensors(One("F32", "[0]", "[0,0]")))), "");
}

TEST(SafetensorsTest, RefusesHostileFiles) {
  const std::string four = "abcd";
  ExpectRefused(
      {
          {"empty file", "", "not a valid safetensors file"},
          {"seven bytes", "1234567", "truncated"},
          {"header longer than the file", LittleEndian(100, 8) + "{}", "truncated"},
          {"huge header", LittleEndian(~uint64_t{0}, 8) + "{}", "truncated"},
          {"header length of 2^63", LittleEndian(uint64_t{1} << 63, 8) + "{}", "truncated"},
          {"no header", Safetensors(""), "not a JSON object"},
          {"a list", Safetensors("[]"), "not a JSON object"},
          {"cut JSON", Safetensors(R"({"x":)"), "bad JSON"},
          {"trailing text", Safetensors("{} {}"), "bad JSON"},
          {"invalid UTF-8", Safetensors("{\"\xff\":{}}"), "bad JSON"},
          {"a number for an entry", Safetensors(R"({"x":1})"), "the number 1"},
          {"a list for an entry", Safetensors(R"({"x":[]})"), "an array"},
          {"null for an entry", Safetensors(R"({"x":null})"), "null"},
          {"deep nesting", Safetensors("{\"x\":" + std::string(1 << 20, '[')), "an array"},
          {"nested objects", Safetensors(R"({"x":{"dtype":{}}})"), "an object"},
          {"no fields", Safetensors(R"({"x":{}})"), "needs dtype, shape"},
          {"no shape", Safetensors(R"({"x":{"dtype":"F32","data_offsets":[0,4]}})", four),
           "needs dtype, shape"},
          {"three offsets", Safetensors(One("F32", "[1]", "[0,4,4]"), four), "two data_offsets"},
          {"one offset", Safetensors(One("F32", "[1]", "[0]"), four), "two data_offsets"},
          {"unknown field",
           Safetensors(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"y":1}})", four),
           "unknown field"},
          {"field twice",
           Safetensors(R"({"x":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}})",
                       four),
           "twice"},
          {"name twice",
           Safetensors(
               R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
               four),
           "duplicate name"},
          {"unknown type", Safetensors(One("F33", "[1]", "[0,4]"), four), "unknown type \"F33\""},
          {"empty type", Safetensors(One("", "[1]", "[0,4]"), four), "unknown type"},
          {"type of another size", Safetensors(One("F64", "[1]", "[0,4]"), four), "needs 8 bytes"},
          {"a number for a shape", Safetensors(One("F32", "1", "[0,4]"), four), "the number 1"},
          {"negative shape", Safetensors(One("F32", "[-1]", "[0,4]"), four), "-1 in its shape"},
          {"fractional shape", Safetensors(One("F32", "[1.5]", "[0,4]"), four), "1.5"},
          {"shape beyond 2^64", Safetensors(One("F32", "[99999999999999999999]", "[0,4]"), four),
           "99999999999999999999"},
          {"overflowing shape", Safetensors(One("F32", "[4294967296,4294967296]", "[0,0]")),
           "overflows"},
          {"overflow hidden by zero", Safetensors(One("F32", "[0,4611686018427387904,4]", "[0,0]")),
           "overflows"},
          {"forty axes",
           Safetensors(One("U8",
                           "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
                           "1,1,1,1,1]",
                           "[0,1]"),
                       "a"),
           "too many numbers"},
          {"negative offset", Safetensors(One("F32", "[1]", "[-4,0]"), four),
           "-4 in its data_offsets"},
          {"end before begin", Safetensors(One("F32", "[1]", "[4,0]"), four), "lies at bytes 4..0"},
          {"beyond the file", Safetensors(One("F32", "[2]", "[0,8]"), four), "lies at bytes 0..8"},
          {"far beyond the file",
           Safetensors(One("U8", "[1000000000000]", "[0,1000000000000]"), four), "lies at bytes"},
          {"too short for its shape", Safetensors(One("F32", "[2]", "[0,4]"), four),
           "needs 8 bytes and has 4"},
          {"overlap",
           Safetensors(
               R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
               four),
           "overlaps"},
          {"partial overlap",
           Safetensors(
               R"({"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"y":{"dtype":"F16","shape":[1],"data_offsets":[2,4]}})",
               four),
           "overlaps"},
          {"gap in front", Safetensors(One("F16", "[1]", "[2,4]"), four), "gap"},
          {"unused bytes behind", Safetensors(One("F16", "[1]", "[0,2]"), four), "unaccounted"},
          {"metadata that is no text", Safetensors(R"({"__metadata__":{"a":1}})"), "the number 1"},
          {"metadata key twice", Safetensors(R"({"__metadata__":{"a":"1","a":"2"}})"), "duplicate"},
          {"two metadata entries", Safetensors(R"({"__metadata__":{},"__metadata__":{}})"),
           "duplicate"},
      },
      "hostile.safetensors");
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("whole"), {{"a", at::ones({3})}, {"b", at::ones({2}, at::kHalf)}});
  std::ifstream file(folder.Path("whole"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(Complaint(folder.Write("cut.safetensors", bytes.substr(0, length))), "") << length;
  }
}

// ---- hostile indices ----

TEST(IndexTest, RefusesHostileFiles) {
  const TemporaryFolder folder;
  WriteSafetensors(folder.Path("a.safetensors"), {{"x", at::ones({1})}});
  std::filesystem::create_directory(folder.Path("folder"));
  const std::vector<Hostile> table = {
      {"good", R"({"weight_map": {"x": "a.safetensors"}, "metadata": {"total_size": 4}})", ""},
      {"nothing", "", "bad JSON"},
      {"no map", "{}", "no weight_map"},
      {"map is a list", R"({"weight_map": []})", "must map names"},
      {"a number for a file", R"({"weight_map": {"x": 1}})", "must map names"},
      {"an object for a file", R"({"weight_map": {"x": {}}})", "must map names"},
      {"name twice", R"({"weight_map": {"x": "a.safetensors", "x": "a.safetensors"}})",
       "duplicate"},
      {"two maps", R"({"weight_map": {}, "weight_map": {}})", "two weight_map"},
      {"absolute path", R"({"weight_map": {"x": "/etc/passwd"}})", "not a plain file name"},
      {"path out of the folder", R"({"weight_map": {"x": "../a.safetensors"}})",
       "not a plain file name"},
      {"parent folder", R"({"weight_map": {"x": ".."}})", "not a plain file name"},
      {"empty name", R"({"weight_map": {"x": ""}})", "not a plain file name"},
      {"NUL in the name", R"({"weight_map": {"x": "a\u0000b"}})", "not a plain file name"},
      {"a folder", R"({"weight_map": {"x": "folder"}})", "is a directory"},
      {"itself", R"({"weight_map": {"x": "model.safetensors.index.json"}})", "is an index"},
      {"missing shard", R"({"weight_map": {"x": "b.safetensors"}})", "cannot open"},
      {"tensor not in its shard", R"({"weight_map": {"y": "a.safetensors"}})",
       "\"y\" is not in shard \"a.safetensors\""},
  };
  for (const Hostile& hostile : table) {
    const std::string complaint =
        Complaint(folder.Write("model.safetensors.index.json", hostile.bytes));
    if (*hostile.complaint == '\0') {
      EXPECT_EQ(complaint, "") << hostile.what;
    } else {
      EXPECT_THAT(complaint, HasSubstr(hostile.complaint)) << hostile.what;
    }
  }
}

// ---- hostile zip files ----

TEST(TorchFileTest, RefusesFilesOfOtherKinds) {
  struct Case {
    const char* file;
    const char* complaint;
  };
  for (const Case& c : {Case{"reduce.pt", "system"}, Case{"deflated.pt", "compressed"},
                        Case{"legacy.pt", "neither safetensors nor"},
                        Case{"module.pt", "torch.nn.modules.linear.Linear"}}) {
    EXPECT_THAT(Complaint(kTestData + c.file), HasSubstr(c.complaint)) << c.file;
  }
  EXPECT_FALSE(std::filesystem::exists("/tmp/kandinsky_checkpoint_was_executed"));
}

TEST(TorchFileTest, RefusesHostileArchives) {
  const std::string pickle = pickle::Whole(
      pickle::Dict({{"x", pickle::Tensor(pickle::Storage("FloatStorage", "0", 1), 0, {1}, {1})}}));
  const ZipRecord data = {"archive/data.pkl", pickle};
  const ZipRecord zero = {"archive/data/0", "abcd"};
  const TemporaryFolder folder;
  ASSERT_EQ(Complaint(folder.Write("good.pt", Zip({data, zero}))), "");
  const auto with = [&](const std::function<void(ZipRecord&)>& change) {
    ZipRecord record = zero;
    change(record);
    return Zip({data, record});
  };
  const std::string good = Zip({data, zero});
  std::string wide = good;  // all ones, and no 64-bit record to explain them
  wide.replace(wide.size() - 14, 12, std::string(12, '\xff'));
  ZipRecord inner = zero, outer = {"archive/x", Zip({zero})};
  inner.claimed_offset = 30 + static_cast<int64_t>(outer.name.size());
  const std::string nested = Zip({outer, inner, data});
  std::string volumes = good;
  volumes[volumes.size() - 18] = 1;
  ExpectRefused(
      {
          {"no end record", good.substr(0, good.size() - 1), "no end record"},
          {"directory beyond the file", wide, "leaves the file"},
          {"several volumes", volumes, "several volumes"},
          {"deflated", with([](auto& r) { r.method = 8; }), "compressed (method 8)"},
          {"encrypted", with([](auto& r) { r.flags = 1; }), "encrypted"},
          {"size beyond the file", with([](auto& r) { r.claimed_size = 0x7fffffff; }),
           "runs into the directory"},
          {"size of all ones without a 64-bit field",
           with([](auto& r) { r.claimed_size = 0xffffffff; }), "runs into the directory"},
          {"offset beyond the file", with([](auto& r) { r.claimed_offset = 0x7fffffff; }),
           "leaves the file"},
          {"offset into data", with([](auto& r) { r.claimed_offset = 5; }),
           "no proper local header"},
          {"two entries in one place", with([](auto& r) {
             r.claimed_offset = 0;
             r.claimed_size = 1;
           }),
           "another name"},
          {"an entry inside another", nested, "overlapping entries"},
          {"another local name", with([](auto& r) { r.local_name = "archive/data/1"; }),
           "another name"},
          {"duplicate entry", Zip({data, zero, zero}), "duplicate entry"},
          {"no pickle", Zip({zero}), "no data.pkl"},
          {"two pickles", Zip({data, {"other/data.pkl", pickle}}), "more than one data.pkl"},
          {"missing record", Zip({data}), "record \"0\", which is missing"},
          {"short record", with([](auto& r) { r.data = "abc"; }), "has 3 bytes, must have 4"},
          {"long record", with([](auto& r) { r.data = "abcdefgh"; }), "has 8 bytes, must have 4"},
          {"big endian", Zip({data, zero, {"archive/byteorder", "big"}}), "byte order is \"big\""},
      },
      "hostile.pt");
}

TEST(TorchFileTest, EveryTruncationIsRefused) {
  const TemporaryFolder folder;
  const std::string bytes =
      TorchFile(pickle::Whole(pickle::Dict(
                    {{"x", pickle::Tensor(pickle::Storage("FloatStorage", "0", 1), 0, {1}, {1})}})),
                {{"0", "abcd"}});
  ASSERT_EQ(Complaint(folder.Write("whole.pt", bytes)), "");
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(Complaint(folder.Write("cut.pt", bytes.substr(0, length))), "") << length;
  }
}

// ---- hostile pickles ----

std::string PickleComplaint(const std::string& bytes) {
  try {
    ReadTensorPickle("p", bytes);
    return "";
  } catch (const ModelError& error) {
    return error.what();
  }
}

TEST(PickleTest, RefusesHostilePickles) {
  using pickle::Global;
  using pickle::Int;
  using pickle::Storage;
  using pickle::Tensor;
  using pickle::Text;
  using pickle::Tuple;
  const std::string storage = Storage("FloatStorage", "0", 6);
  const int64_t big = int64_t{1} << 62;
  const auto tensor = [&](int64_t offset, std::vector<int64_t> shape,
                          std::vector<int64_t> strides) {
    return pickle::Whole(Tensor(storage, offset, shape, strides));
  };
  // A list of two lists of two lists ...: 2^40 paths in 200 bytes.
  std::string doubling = Tensor(storage, 0, {1}, {1}) + std::string("q\0", 2) + "0";
  for (int i = 0; i < 40; ++i) {
    const std::string item = std::string("h") + static_cast<char>(i);
    doubling += "](" + item + item + "e" + "q" + static_cast<char>(i + 1) + "0";
  }
  doubling += std::string("h") + static_cast<char>(40);
  const Hostile table[] = {
      {"nothing", "", "truncated"},
      {"no stop", "\x80\x02}", "truncated"},
      {"stop alone", "\x80\x02.", "ends with 0 values"},
      {"two values", "\x80\x02}}.", "ends with 2 values"},
      {"protocol 0", "(dp0\n.", "instruction 0x70"},
      {"protocol 1", "\x80\x01}.", "protocol 1"},
      {"protocol 9", "\x80\x09}.", "protocol 9"},
      {"unknown instruction", "\x80\x02\x01.", "instruction 0x01"},
      {"os.system", pickle::Whole(Global("os", "system") + Tuple({Text("true")}) + "R"),
       "refers to \"os.system\""},
      {"eval", pickle::Whole(Global("builtins", "eval") + Tuple({Text("1")}) + "R"),
       "builtins.eval"},
      {"by STACK_GLOBAL", std::string("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."),
       "posix.system"},
      {"a torch function", pickle::Whole(Global("torch", "load")), "torch.load"},
      {"a part of a known name", pickle::Whole(Global("torch._utils", "_rebuild_tensor_v2.x")),
       "_rebuild_tensor_v2.x"},
      {"NEWOBJ", pickle::Whole(Global("collections", "OrderedDict") + ")\x81"), "instruction 0x81"},
      {"INST", "\x80\x02(ios\nsystem\n.", "instruction 0x69"},
      {"OBJ", "\x80\x02(" + Global("collections", "OrderedDict") + "o.", "instruction 0x6f"},
      {"extension registry", "\x80\x02\x82\x01.", "instruction 0x82"},
      {"bytes",
       "\x80\x03"
       "C\x01x.",
       "instruction 0x43"},
      {"calling a string", pickle::Whole(Text("x") + ")R"), "not a known function"},
      {"calling with a list", pickle::Whole(Global("collections", "OrderedDict") + "]R"),
       "not a known function"},
      {"calling a storage", pickle::Whole(Global("torch", "FloatStorage") + ")R"), "does not take"},
      {"OrderedDict of a number",
       pickle::Whole(Global("collections", "OrderedDict") + Tuple({Int(1)}) + "R"),
       "list of pairs"},
      {"attributes of a dict", pickle::Whole("}}b"), "sets attributes"},
      {"persistent id that is no tuple", pickle::Whole(Text("0") + "Q"), "not a storage"},
      {"storage of a negative size", pickle::Whole(Storage("FloatStorage", "0", -1)),
       "not a storage"},
      {"storage of a strange type", pickle::Whole(Storage("QInt8Storage", "0", 1)),
       "torch.QInt8Storage"},
      {"empty stack", "\x80\x02R.", "stack is empty"},
      {"append to nothing", "\x80\x02Na.", "stack is empty"},
      {"append to a dict", "\x80\x02}Na.", "not a list"},
      {"append to a tuple", "\x80\x02)Na.", "not a list"},
      {"odd dict", "\x80\x02}(Nu.", "not a list or dict"},
      {"no mark", "\x80\x02}t.", "no mark"},
      {"mark as a value", "\x80\x02(\x85.", "stack is empty"},
      {"memo that is not set", "\x80\x02h\x05.", "memo 5 is not set"},
      {"string longer than the file", "\x80\x02X\xff\xff\xff\x7f.", "truncated"},
      {"string of 2^64 bytes", "\x80\x04\x8d" + std::string(8, '\xff') + ".", "truncated"},
      {"frame longer than the file", "\x80\x04\x95" + std::string(8, '\x7f') + "}.",
       "truncated frame"},
      {"endless line",
       "\x80\x02"
       "ctorch",
       "truncated"},
      {"negative extent", tensor(0, {-1}, {1}), "not a count (-1)"},
      {"negative stride", tensor(5, {2}, {-1}), "not a count (-1)"},
      {"negative offset", tensor(-1, {1}, {1}), "overflows"},
      {"extent that is a string",
       pickle::Whole(Global("torch._utils", "_rebuild_tensor_v2") +
                     Tuple({storage, Int(0), Tuple({Text("6")}), Tuple({Int(1)}), "\x89", "}"}) +
                     "R"),
       "not a count"},
      {"fewer strides than extents", tensor(0, {2, 3}, {1}), "different numbers"},
      {"beyond its storage", tensor(0, {7}, {1}), "leaves its storage"},
      {"offset beyond its storage", tensor(6, {1}, {1}), "leaves its storage"},
      {"strides beyond its storage", tensor(0, {2, 3}, {4, 1}), "leaves its storage"},
      {"scalar beyond its storage", tensor(6, {}, {}), "leaves its storage"},
      {"expanded without end", tensor(0, {big / 8}, {0}), "more elements than its storage"},
      {"overflowing extents", tensor(0, {big, 4}, {1, 1}), "overflows"},
      {"overflowing strides", tensor(0, {3}, {big}), "overflows"},
      {"overflowing offset", tensor(INT64_MAX, {2}, {1}), "overflows"},
      {"overflowing storage",
       pickle::Whole(Tensor(Storage("DoubleStorage", "0", INT64_MAX), 0, {1}, {1})), "overflows"},
      {"forty axes", tensor(0, std::vector<int64_t>(40, 1), std::vector<int64_t>(40, 1)),
       "too many dimensions"},
      {"a conjugate tensor",
       pickle::Whole(Global("torch._utils", "_rebuild_tensor_v2") +
                     Tuple({storage, Int(0), pickle::Ints({1}), pickle::Ints({1}), "\x89", "}",
                            pickle::Dict({{"conj", "\x88"}})}) +
                     "R"),
       "metadata"},
      {"a tensor called twice by two paths",
       pickle::Whole("}(" + Text("a.b") + Tensor(storage, 0, {1}, {1}) + Text("a") +
                     pickle::Dict({{"b", Tensor(storage, 0, {1}, {1})}}) + "u"),
       "two tensors are called \"a.b\""},
      {"the same key twice",
       pickle::Whole(pickle::Dict(
           {{"a", Tensor(storage, 0, {1}, {1})}, {"a", Tensor(storage, 1, {1}, {1})}})),
       "two tensors are called \"a\""},
      {"a tuple for a key",
       pickle::Whole("}(" + Tuple({Int(1)}) + Tensor(storage, 0, {1}, {1}) + "u"),
       "neither a string nor an integer"},
      {"a list in itself", std::string("\x80\x02]q\0h\0a.", 9), "nested too deeply"},
      {"a dict in itself", std::string("\x80\x02}q\0", 5) + Text("x") + std::string("h\0s.", 4),
       "nested too deeply"},
      {"a million nested lists",
       "\x80\x02" + std::string(1000000, ']') + std::string(999999, 'a') + ".",
       "nested too deeply"},
      {"doubling lists", pickle::Whole(doubling), "unfolds to far more"},
  };
  for (const Hostile& hostile : table) {
    EXPECT_THAT(PickleComplaint(hostile.bytes), HasSubstr(hostile.complaint)) << hostile.what;
  }
}

TEST(PickleTest, AcceptsPlainData) {
  using pickle::Storage;
  using pickle::Tensor;
  const std::string storage = Storage("HalfStorage", "key", 6);
  struct Case {
    const char* what;
    std::string bytes;
    std::vector<std::string> names;
  };
  const Case cases[] = {
      {"None", "\x80\x02N.", {}},
      {"a lone tensor", pickle::Whole(Tensor(storage, 0, {6}, {1})), {""}},
      {"two axes", pickle::Whole(pickle::Dict({{"x", Tensor(storage, 0, {2, 3}, {1, 2})}})), {"x"}},
      {"an empty tensor with wild strides",
       pickle::Whole(pickle::Dict({{"x", Tensor(storage, 99, {0, 3}, {7, 7})}})),
       {"x"}},
      {"the same list twice",
       pickle::Whole("](" + Tensor(storage, 0, {1}, {1}) + std::string("q\1h\1e", 5)),
       {"0", "1"}},
      {"long integers",
       "\x80\x02](\x8a\x01\x80\x8a\x0a" + std::string(10, '\1') + "\x8a" + std::string(1, '\0') +
           "e.",
       {}},
  };
  for (const Case& c : cases) {
    std::map<std::string, PickledTensor> tensors;
    EXPECT_NO_THROW(tensors = ReadTensorPickle("p", c.bytes)) << c.what;
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    EXPECT_EQ(names, c.names) << c.what;
  }
}

}  // namespace
}  // namespace kandinsky::model
