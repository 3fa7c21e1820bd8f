#include "worker/model/checkpoint/pickle.h"

#include <deque>
#include <optional>
#include <unordered_map>
#include <utility>

#include "worker/model/checkpoint/shape.h"
#include "worker/model/error.h"

namespace kandinsky::model {
namespace {

constexpr int kMaxDepth = 64;          // of nested containers
constexpr int64_t kUnfoldFactor = 64;  // bytes of names for each byte of the pickle
constexpr int64_t kUnfoldAllowance = 1 << 16;

// Opcodes of pickle protocols 2 to 5 that data needs.
enum Opcode : uint8_t {
  kProto = 0x80,
  kFrame = 0x95,
  kStop = '.',
  kMark = '(',
  kPop = '0',
  kPopMark = '1',
  kNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kBinFloat = 'G',
  kShortBinString = 'U',
  kBinString = 'T',
  kBinUnicode = 'X',
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kList = 'l',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyDict = '}',
  kDict = 'd',
  kSetItem = 's',
  kSetItems = 'u',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kMemoize = 0x94,
  kBinGet = 'h',
  kLongBinGet = 'j',
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kBuild = 'b',
  kBinPersId = 'Q',
};

// What an allowed global stands for.
struct Global {
  enum class Kind { kOrderedDict, kSize, kRebuildTensor, kRebuildParameter, kStorage, kDtype };
  const char* module;
  const char* name;
  Kind kind;
  at::ScalarType dtype = at::kByte;  // element type, of kStorage and kDtype
};

constexpr Global kGlobals[] = {
    {"collections", "OrderedDict", Global::Kind::kOrderedDict},
    {"torch", "Size", Global::Kind::kSize},
    {"torch._utils", "_rebuild_tensor_v2", Global::Kind::kRebuildTensor},
    {"torch._utils", "_rebuild_parameter", Global::Kind::kRebuildParameter},
    {"torch", "FloatStorage", Global::Kind::kStorage, at::kFloat},
    {"torch", "HalfStorage", Global::Kind::kStorage, at::kHalf},
    {"torch", "BFloat16Storage", Global::Kind::kStorage, at::kBFloat16},
    {"torch", "DoubleStorage", Global::Kind::kStorage, at::kDouble},
    {"torch", "LongStorage", Global::Kind::kStorage, at::kLong},
    {"torch", "IntStorage", Global::Kind::kStorage, at::kInt},
    {"torch", "ShortStorage", Global::Kind::kStorage, at::kShort},
    {"torch", "CharStorage", Global::Kind::kStorage, at::kChar},
    {"torch", "ByteStorage", Global::Kind::kStorage, at::kByte},
    {"torch", "BoolStorage", Global::Kind::kStorage, at::kBool},
    {"torch", "float32", Global::Kind::kDtype, at::kFloat},
    {"torch", "float16", Global::Kind::kDtype, at::kHalf},
    {"torch", "bfloat16", Global::Kind::kDtype, at::kBFloat16},
    {"torch", "float64", Global::Kind::kDtype, at::kDouble},
    {"torch", "int64", Global::Kind::kDtype, at::kLong},
    {"torch", "int32", Global::Kind::kDtype, at::kInt},
    {"torch", "int16", Global::Kind::kDtype, at::kShort},
    {"torch", "int8", Global::Kind::kDtype, at::kChar},
    {"torch", "uint8", Global::Kind::kDtype, at::kByte},
    {"torch", "bool", Global::Kind::kDtype, at::kBool},
};

struct Storage {
  std::string_view key;
  at::ScalarType dtype = at::kByte;
  int64_t numel = 0;
};

struct Node;

// One value on the pickle machine's stack. Containers live in the machine's arena, so that neither
// deep nor cyclic structures can hurt when they are destroyed.
struct Value {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kNumber,  // a float or a long integer; no one asks for its value
    kString,
    kList,
    kTuple,
    kDict,
    kOrderedDict,
    kStorage,
    kTensor,
    kGlobal,
    kMark,
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;  // kBool, kInt; length of kString
  union {
    const char* text;  // kString: bytes of the pickle itself
    Node* node;        // kList, kTuple; kDict, kOrderedDict: keys and values in turn
    const Storage* storage;
    const PickledTensor* tensor;
    const Global* global;
    const void* none = nullptr;
  };

  std::string_view string() const { return {text, static_cast<size_t>(number)}; }
};

struct Node {
  std::vector<Value> items;
};

class Unpickler {
 public:
  Unpickler(const std::string& path, std::string_view pickle) : path_(path), data_(pickle) {}

  Value Run() {
    while (true) {
      const uint8_t opcode = Byte();
      if (opcode == kStop) break;
      Step(opcode);
    }
    if (stack_.size() != 1) Damaged("it ends with " + std::to_string(stack_.size()) + " values");
    return stack_.back();
  }

  std::map<std::string, PickledTensor> Flatten(const Value& root) {
    std::map<std::string, PickledTensor> tensors;
    int64_t budget = kUnfoldAllowance + kUnfoldFactor * static_cast<int64_t>(data_.size());
    Flatten(root, "", 0, &budget, &tensors);
    return tensors;
  }

 private:
  using Kind = Value::Kind;

  [[noreturn]] void Damaged(const std::string& what) const {
    throw ModelError(ModelError::Kind::kDataLoss, path_ + ": refused pickle, at byte " +
                                                      std::to_string(position_) + ": " + what);
  }

  // ---- reading ----

  std::string_view Take(uint64_t length) {
    if (length > data_.size() - position_) Damaged("truncated");
    const std::string_view taken = data_.substr(position_, length);
    position_ += length;
    return taken;
  }
  uint8_t Byte() { return static_cast<uint8_t>(Take(1)[0]); }
  uint64_t Number(int width) {
    const std::string_view bytes = Take(width);
    uint64_t value = 0;
    for (int i = width - 1; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    return value;
  }
  std::string_view Line() {
    const size_t end = data_.find('\n', position_);
    if (end == std::string_view::npos) Damaged("truncated");
    const std::string_view line = Take(end - position_);
    ++position_;
    return line;
  }

  // ---- the stack ----

  void Push(Value value) { stack_.push_back(value); }
  void Push(Kind kind, int64_t number) {
    Value value;
    value.kind = kind;
    value.number = number;
    Push(value);
  }
  void PushString(std::string_view text) {
    Value value;
    value.kind = Kind::kString;
    value.number = static_cast<int64_t>(text.size());
    value.text = text.data();
    Push(value);
  }
  void PushContainer(Kind kind, std::vector<Value> items) {
    nodes_.push_back({std::move(items)});
    Value value;
    value.kind = kind;
    value.node = &nodes_.back();
    Push(value);
  }
  Value& Top() {
    if (stack_.empty() || stack_.back().kind == Kind::kMark) Damaged("the stack is empty");
    return stack_.back();
  }
  Value Pop() {
    const Value value = Top();
    stack_.pop_back();
    return value;
  }
  std::vector<Value> PopCount(int count) {
    std::vector<Value> items(count);
    for (int i = count - 1; i >= 0; --i) items[i] = Pop();
    return items;
  }
  std::vector<Value> PopToMark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1].kind != Kind::kMark) --mark;
    if (mark == 0) Damaged("no mark on the stack");
    std::vector<Value> items(stack_.begin() + mark, stack_.end());
    stack_.resize(mark - 1);
    return items;
  }

  // ---- instructions ----

  void Step(uint8_t opcode) {
    switch (opcode) {
      case kProto:
        if (const uint8_t version = Byte(); version < 2 || version > 5) {
          Damaged("protocol " + std::to_string(version));
        }
        return;
      case kFrame:
        if (Number(8) > data_.size() - position_) Damaged("truncated frame");
        return;
      case kMark:
        return Push(Kind::kMark, 0);
      case kPop:
        Pop();
        return;
      case kPopMark:
        PopToMark();
        return;
      case kNone:
        return Push(Kind::kNone, 0);
      case kNewTrue:
        return Push(Kind::kBool, 1);
      case kNewFalse:
        return Push(Kind::kBool, 0);
      case kBinInt:
        return Push(Kind::kInt, static_cast<int32_t>(Number(4)));
      case kBinInt1:
        return Push(Kind::kInt, static_cast<int64_t>(Number(1)));
      case kBinInt2:
        return Push(Kind::kInt, static_cast<int64_t>(Number(2)));
      case kLong1:
        return Long(Byte());
      case kBinFloat:
        Take(8);
        return Push(Kind::kNumber, 0);
      case kShortBinString:
      case kShortBinUnicode:
        return PushString(Take(Number(1)));
      case kBinString:
      case kBinUnicode:
        return PushString(Take(Number(4)));
      case kBinUnicode8:
        return PushString(Take(Number(8)));
      case kEmptyList:
        return PushContainer(Kind::kList, {});
      case kList:
        return PushContainer(Kind::kList, PopToMark());
      case kAppend: {
        const Value item = Pop();
        return Extend(Kind::kList, {item});
      }
      case kAppends: {
        std::vector<Value> items = PopToMark();
        return Extend(Kind::kList, items);
      }
      case kEmptyTuple:
        return PushContainer(Kind::kTuple, {});
      case kTuple:
        return PushContainer(Kind::kTuple, PopToMark());
      case kTuple1:
        return PushContainer(Kind::kTuple, PopCount(1));
      case kTuple2:
        return PushContainer(Kind::kTuple, PopCount(2));
      case kTuple3:
        return PushContainer(Kind::kTuple, PopCount(3));
      case kEmptyDict:
        return PushContainer(Kind::kDict, {});
      case kDict: {
        std::vector<Value> items = PopToMark();
        if (items.size() % 2 != 0) Damaged("a dict with an odd number of items");
        return PushContainer(Kind::kDict, std::move(items));
      }
      case kSetItem: {
        const std::vector<Value> items = PopCount(2);
        return Extend(Kind::kDict, items);
      }
      case kSetItems: {
        const std::vector<Value> items = PopToMark();
        return Extend(Kind::kDict, items);
      }
      case kBinPut:
        memo_[Number(1)] = Top();
        return;
      case kLongBinPut:
        memo_[Number(4)] = Top();
        return;
      case kMemoize: {
        const uint64_t index = memo_.size();
        memo_[index] = Top();
        return;
      }
      case kBinGet:
        return Get(Number(1));
      case kLongBinGet:
        return Get(Number(4));
      case kGlobal: {
        const std::string_view module = Line();
        return FindGlobal(module, Line());
      }
      case kStackGlobal: {
        const std::vector<Value> names = PopCount(2);
        if (names[0].kind != Kind::kString || names[1].kind != Kind::kString) {
          Damaged("a global whose name is not a string");
        }
        return FindGlobal(names[0].string(), names[1].string());
      }
      case kReduce:
        return Reduce();
      case kBuild:
        return Build();
      case kBinPersId:
        return PersistentId();
      default: {
        constexpr char kHex[] = "0123456789abcdef";
        Damaged(std::string("instruction 0x") + kHex[opcode >> 4] + kHex[opcode & 15] +
                ", which data does not need");
      }
    }
  }

  void Long(int length) {
    const std::string_view bytes = Take(length);
    if (length > 8) return Push(Kind::kNumber, 0);
    uint64_t value = 0;
    for (int i = length - 1; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    if (length > 0 && length < 8 && (bytes[length - 1] & 0x80))
      value |= ~uint64_t{0} << (8 * length);
    Push(Kind::kInt, static_cast<int64_t>(value));
  }

  void Extend(Kind kind, const std::vector<Value>& items) {
    Value& target = Top();
    const bool fits = kind == Kind::kList
                          ? target.kind == Kind::kList
                          : target.kind == Kind::kDict || target.kind == Kind::kOrderedDict;
    if (!fits || (kind != Kind::kList && items.size() % 2 != 0)) {
      Damaged("items for something that is not a list or dict");
    }
    target.node->items.insert(target.node->items.end(), items.begin(), items.end());
  }

  void Get(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) Damaged("memo " + std::to_string(index) + " is not set");
    Push(found->second);
  }

  void FindGlobal(std::string_view module, std::string_view name) {
    for (const Global& global : kGlobals) {
      if (module == global.module && name == global.name) {
        Value value;
        value.kind = Kind::kGlobal;
        value.global = &global;
        return Push(value);
      }
    }
    Damaged("it refers to " + Quote(std::string(module) + "." + std::string(name)) +
            "; checkpoints may hold tensors, dicts, lists, strings and numbers only");
  }

  // ---- the calls that are emulated ----

  void Reduce() {
    const Value arguments = Pop();
    const Value callee = Pop();
    if (callee.kind != Kind::kGlobal || arguments.kind != Kind::kTuple) {
      Damaged("a call of something that is not a known function");
    }
    const std::vector<Value>& items = arguments.node->items;
    switch (callee.global->kind) {
      case Global::Kind::kOrderedDict:
        if (items.empty()) return PushContainer(Kind::kOrderedDict, {});
        return OrderedDictOf(items);
      case Global::Kind::kSize:
        if (items.size() != 1 || items[0].kind != Kind::kTuple) break;
        return Push(items[0]);
      case Global::Kind::kRebuildTensor:
        return RebuildTensor(items);
      case Global::Kind::kRebuildParameter:
        if (items.empty() || items[0].kind != Kind::kTensor) break;
        return Push(items[0]);
      case Global::Kind::kStorage:
      case Global::Kind::kDtype:
        break;
    }
    Damaged(std::string("a call of ") + callee.global->module + "." + callee.global->name +
            " with arguments that it does not take");
  }

  // OrderedDict([(key, value), ...])
  void OrderedDictOf(const std::vector<Value>& arguments) {
    std::vector<Value> items;
    if (arguments.size() != 1 || arguments[0].kind != Kind::kList) {
      Damaged("an OrderedDict of something that is not a list of pairs");
    }
    for (const Value& pair : arguments[0].node->items) {
      const bool is_pair =
          (pair.kind == Kind::kList || pair.kind == Kind::kTuple) && pair.node->items.size() == 2;
      if (!is_pair) Damaged("an OrderedDict of something that is not a list of pairs");
      items.insert(items.end(), pair.node->items.begin(), pair.node->items.end());
    }
    PushContainer(Kind::kOrderedDict, std::move(items));
  }

  // Attributes of an OrderedDict (a state dict's _metadata) are of no interest; nothing else may
  // have any.
  void Build() {
    const Value state = Pop();
    if (Top().kind != Kind::kOrderedDict || state.kind != Kind::kDict) {
      Damaged("it sets attributes of something that is not a state dict");
    }
  }

  // ("storage", storage type, key, location, element count)
  void PersistentId() {
    const Value id = Pop();
    const auto bad = [this] { Damaged("a persistent id that is not a storage"); };
    if (id.kind != Kind::kTuple) bad();
    const std::vector<Value>& items = id.node->items;
    if (items.size() != 5 || items[0].kind != Kind::kString || items[0].string() != "storage" ||
        items[1].kind != Kind::kGlobal || items[1].global->kind != Global::Kind::kStorage ||
        items[2].kind != Kind::kString || items[3].kind != Kind::kString ||
        items[4].kind != Kind::kInt || items[4].number < 0) {
      bad();
    }
    storages_.push_back({items[2].string(), items[1].global->dtype, items[4].number});
    Value value;
    value.kind = Kind::kStorage;
    value.storage = &storages_.back();
    Push(value);
  }

  std::vector<int64_t> Integers(const Value& value, const char* what) {
    if (value.kind != Kind::kTuple && value.kind != Kind::kList) {
      Damaged(std::string("a tensor whose ") + what + " is not a tuple");
    }
    std::vector<int64_t> numbers;
    for (const Value& item : value.node->items) {
      if (item.kind != Kind::kInt || item.number < 0) {
        Damaged(std::string("a tensor whose ") + what + " holds something that is not a count" +
                (item.kind == Kind::kInt ? " (" + std::to_string(item.number) + ")" : ""));
      }
      if (numbers.size() >= kMaxDimensions) {
        Damaged(std::string("a tensor whose ") + what + " has too many dimensions");
      }
      numbers.push_back(item.number);
    }
    return numbers;
  }

  // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
  void RebuildTensor(const std::vector<Value>& items) {
    if ((items.size() != 6 && items.size() != 7) || items[0].kind != Kind::kStorage ||
        items[1].kind != Kind::kInt) {
      Damaged("a tensor without storage or offset");
    }
    if (items.size() == 7 && items[6].kind != Kind::kNone &&
        !(items[6].kind == Kind::kDict && items[6].node->items.empty())) {
      Damaged("a tensor with metadata (a lazy conjugate or negative)");
    }
    const Storage& storage = *items[0].storage;
    PickledTensor tensor;
    tensor.storage = std::string(storage.key);
    tensor.dtype = storage.dtype;
    tensor.offset = items[1].number;
    tensor.shape = Integers(items[2], "size");
    tensor.strides = Integers(items[3], "stride");
    const int64_t item_bytes = static_cast<int64_t>(c10::elementSize(storage.dtype));
    const std::string description =
        ShapeText(tensor.shape) + " with strides " + ShapeText(tensor.strides) + " at " +
        std::to_string(tensor.offset) + " of storage " + Quote(tensor.storage) + " (" +
        std::to_string(storage.numel) + " elements)";
    if (tensor.shape.size() != tensor.strides.size()) {
      Damaged("a tensor of different numbers of sizes and strides: " + description);
    }
    const std::optional<int64_t> bytes = CheckedBytes(storage.dtype, tensor.shape);
    int64_t last = tensor.offset;  // index of the last element
    bool overflow = !bytes || tensor.offset < 0 ||
                    __builtin_mul_overflow(storage.numel, item_bytes, &tensor.storage_bytes);
    for (size_t i = 0; i < tensor.shape.size() && !overflow; ++i) {
      int64_t reach = 0;
      if (tensor.shape[i] == 0) continue;
      overflow = __builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
                 __builtin_add_overflow(last, reach, &last);
    }
    if (overflow) Damaged("a tensor whose size overflows: " + description);
    const bool empty = *bytes == 0;
    if (!empty && last >= storage.numel) {
      Damaged("a tensor that leaves its storage: " + description);
    }
    if (*bytes > tensor.storage_bytes) {
      Damaged("a tensor with more elements than its storage: " + description);
    }
    if (empty) {  // strides of nothing may be anything; keep them harmless
      tensor.offset = 0;
      tensor.strides = ContiguousStrides(tensor.shape);
    }
    tensors_.push_back(std::move(tensor));
    Value value;
    value.kind = Kind::kTensor;
    value.tensor = &tensors_.back();
    Push(value);
  }

  static std::string ShapeText(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t extent : shape) {
      text += (text.empty() ? "" : ", ") + std::to_string(extent);
    }
    return "[" + text + "]";
  }

  // ---- from the object to names ----

  void Flatten(const Value& value, const std::string& name, int depth, int64_t* budget,
               std::map<std::string, PickledTensor>* tensors) {
    *budget -= static_cast<int64_t>(name.size()) + 1;
    if (depth > kMaxDepth) Damaged("it is nested too deeply, or in itself");
    if (*budget < 0) Damaged("it unfolds to far more than its own length");
    const auto child = [&name](const std::string& key) {
      return name.empty() ? key : name + "." + key;
    };
    switch (value.kind) {
      case Kind::kTensor:
        if (!tensors->emplace(name, *value.tensor).second) {
          Damaged("two tensors are called " + Quote(name));
        }
        return;
      case Kind::kList:
      case Kind::kTuple:
        for (size_t i = 0; i < value.node->items.size(); ++i) {
          const Value& item = value.node->items[i];
          if (HoldsTensors(item))
            Flatten(item, child(std::to_string(i)), depth + 1, budget, tensors);
        }
        return;
      case Kind::kDict:
      case Kind::kOrderedDict:
        for (size_t i = 0; i < value.node->items.size(); i += 2) {
          const Value& key = value.node->items[i];
          const Value& item = value.node->items[i + 1];
          if (!HoldsTensors(item)) continue;
          if (key.kind == Kind::kString) {
            *budget -= static_cast<int64_t>(key.number);
            if (*budget < 0) Damaged("it unfolds to far more than its own length");
            Flatten(item, child(std::string(key.string())), depth + 1, budget, tensors);
          } else if (key.kind == Kind::kInt) {
            Flatten(item, child(std::to_string(key.number)), depth + 1, budget, tensors);
          } else {
            Damaged("a dict key that is neither a string nor an integer");
          }
        }
        return;
      default:
        return;
    }
  }

  static bool HoldsTensors(const Value& value) {
    switch (value.kind) {
      case Kind::kTensor:
      case Kind::kList:
      case Kind::kTuple:
      case Kind::kDict:
      case Kind::kOrderedDict:
        return true;
      default:
        return false;
    }
  }

  const std::string& path_;
  const std::string_view data_;
  size_t position_ = 0;
  std::vector<Value> stack_;
  std::unordered_map<uint64_t, Value> memo_;
  std::deque<Node> nodes_;
  std::deque<Storage> storages_;
  std::deque<PickledTensor> tensors_;
};

}  // namespace

std::map<std::string, PickledTensor> ReadTensorPickle(const std::string& path,
                                                      std::string_view pickle) {
  Unpickler unpickler(path, pickle);
  const Value root = unpickler.Run();
  return unpickler.Flatten(root);
}

}  // namespace kandinsky::model
