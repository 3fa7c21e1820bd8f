// Every key of the engine, for C++ and for the scripts. docs/queue.md says what each holds.
//
// All keys of one job have the hash tag {job id}.
#ifndef KANDINSKY_COMMON_QUEUE_REDIS_KEYS_H_
#define KANDINSKY_COMMON_QUEUE_REDIS_KEYS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "common/queue/job.h"

namespace kandinsky {

// Immutable; thread-safe.
class Keys {
 public:
  explicit Keys(std::string_view prefix);

  // --- of one job
  std::string Job(const std::string& id) const;                      // hash: the record
  std::string Events(const std::string& id) const;                   // stream: all but progress
  std::string Progress(const std::string& id) const;                 // stream, capped: progress
  std::string Checkpoint(const std::string& id, Stage stage) const;  // string
  std::string Upload(const std::string& id, std::string_view name) const;  // string, on its way
  std::string Videos(const std::string& id) const;                         // set: generations
  std::string Video(const std::string& id,
                    int64_t generation) const;  // hash: size, segments, sealed
  std::string Segment(const std::string& id, int64_t generation, int64_t segment) const;  // string

  // --- of one stage
  std::string Wake(Stage stage) const;  // list of at most one token: a blocked worker may look

  // --- of the whole engine
  std::string Schema() const;  // string: version of all this, written by the first process
  std::string Dead() const;    // sorted set: dead letters by time
  const std::string& Channel() const { return channel_; }  // events as they happen

  // The same names, and those that only scripts use, as Lua definitions.
  std::string Lua() const;

 private:
  std::string OfJob(const std::string& id, std::string_view suffix) const;

  std::string prefix_;
  std::string channel_;
};

}  // namespace kandinsky

#endif  // KANDINSKY_COMMON_QUEUE_REDIS_KEYS_H_
