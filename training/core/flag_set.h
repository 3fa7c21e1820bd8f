// The options of one command: "--name value", "--name=value", and for switches "--name" or
// "--noname".
#ifndef KANDINSKY_TRAINING_CORE_FLAG_SET_H_
#define KANDINSKY_TRAINING_CORE_FLAG_SET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kandinsky::training {

// Targets must outlive the set; what they hold when added is the default that Usage shows.
class FlagSet {
 public:
  using Target = std::variant<std::string*, int64_t*, uint64_t*, int*, double*, bool*>;

  void Add(std::string name, Target target, std::string help);

  // Sets the targets. Throws ModelError::kInvalidArgument naming the option and what it takes.
  void Parse(const std::vector<std::string>& arguments) const;

  // One option a line, with its default.
  std::string Usage() const;

 private:
  struct Flag {
    std::string name;
    Target target;
    std::string help;
  };
  const Flag* Find(std::string_view name) const;

  std::vector<Flag> flags_;
};

// Throws ModelError::kInvalidArgument, "FLAG is VALUE, must be LIMIT", unless least <= value <=
// most (NaN is not).
void CheckRange(const std::string& flag, double value, double least, double most,
                const std::string& limit);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_FLAG_SET_H_
