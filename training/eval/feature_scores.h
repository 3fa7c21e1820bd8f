// FVD, IS and CLIPSIM of a generator over pluggable extractors (extractor.h), and their intervals.
//
// Throws ModelError.
#ifndef KANDINSKY_TRAINING_EVAL_FEATURE_SCORES_H_
#define KANDINSKY_TRAINING_EVAL_FEATURE_SCORES_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/eval/intervals.h"

namespace kandinsky::training {

enum class FeatureKind { kFvd, kIs, kClipsim };
FeatureKind ParseFeatureKind(const std::string& name);  // "fvd", "is", "clipsim"

// features [N, D] (or probabilities [N, K], or anything whose first axis is observations) and a
// statistic over them: the value over all, with the interval of a delete-a-group jackknife
// (Student's t over `groups` groups of neighbouring observations). It suits distances of
// distributions, whose bootstrap is biased because drawing with repetition makes the sample poorer.
// Fewer observations than groups: as many groups as observations; fewer than two: no bounds.
Interval GroupJackknife(int64_t count,
                        const std::function<double(const at::Tensor& kept)>& statistic,
                        int groups = 10);

// Frechet distance of features [N, D] of real and [N, D] of generated clips.
Interval FrechetInterval(const at::Tensor& real, const at::Tensor& generated);

// A tensor [D] as JSON and back; rows of records as [N, D].
nlohmann::ordered_json ToRecord(const at::Tensor& features);
at::Tensor FromRecords(const std::vector<nlohmann::ordered_json>& records, const char* name);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_FEATURE_SCORES_H_
