#include "training/eval/feature_scores.h"

#include <algorithm>
#include <cmath>

#include "training/eval/frechet.h"
#include "worker/model/error.h"

namespace kandinsky::training {

using Json = nlohmann::ordered_json;
using model::ModelError;

FeatureKind ParseFeatureKind(const std::string& name) {
  if (name == "fvd") return FeatureKind::kFvd;
  if (name == "is") return FeatureKind::kIs;
  if (name == "clipsim") return FeatureKind::kClipsim;
  throw ModelError(ModelError::Kind::kInvalidArgument,
                   "--kind is \"" + name + "\", must be fvd, is or clipsim");
}

Interval GroupJackknife(int64_t count,
                        const std::function<double(const at::Tensor& kept)>& statistic,
                        int groups) {
  const at::Tensor all = at::arange(count, at::kLong);
  Interval interval;
  interval.value = statistic(all);
  interval.count = count;
  const int64_t parts = std::min<int64_t>(groups, count);
  std::vector<double> pseudo_values;
  for (int64_t part = 0; part < parts && parts >= 2; ++part) {
    const int64_t first = part * count / parts, end = (part + 1) * count / parts;
    const at::Tensor kept = at::cat({all.narrow(0, 0, first), all.narrow(0, end, count - end)});
    pseudo_values.push_back(static_cast<double>(parts) * interval.value -
                            static_cast<double>(parts - 1) * statistic(kept));
  }
  const Interval spread = Mean(pseudo_values);
  const double half = (spread.high - spread.low) / 2;  // NaN without values
  interval.low = interval.value - half;
  interval.high = interval.value + half;
  return interval;
}

Interval FrechetInterval(const at::Tensor& real, const at::Tensor& generated) {
  if (real.dim() != 2 || generated.dim() != 2 || real.size(1) != generated.size(1) ||
      real.size(0) != generated.size(0) || real.size(0) < 4) {
    throw ModelError(ModelError::Kind::kInvalidArgument,
                     "features have shapes " + c10::str(real.sizes()) + " and " +
                         c10::str(generated.sizes()) + ", must be [N, D] with N from 4 on");
  }
  return GroupJackknife(real.size(0), [&](const at::Tensor& kept) {
    FeatureStatistics a, b;
    a.Add(real.index_select(0, kept));
    b.Add(generated.index_select(0, kept));
    return FrechetDistance(a, b);
  });
}

Json ToRecord(const at::Tensor& features) {
  const at::Tensor flat = features.to(at::kCPU, at::kDouble).contiguous().flatten();
  Json json = Json::array();
  for (int64_t i = 0; i < flat.numel(); ++i) json.push_back(flat.data_ptr<double>()[i]);
  return json;
}

at::Tensor FromRecords(const std::vector<Json>& records, const char* name) {
  std::vector<at::Tensor> rows;
  for (const Json& record : records) {
    rows.push_back(at::tensor(record[name].get<std::vector<double>>(), at::kDouble));
  }
  return at::stack(rows);
}

}  // namespace kandinsky::training
