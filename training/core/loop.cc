#include "training/core/loop.h"

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "training/core/loader.h"
#include "training/core/metrics.h"
#include "training/core/picture.h"
#include "worker/model/checkpoint/safetensors.h"
#include "worker/model/error.h"
#include "worker/model/write_file.h"

namespace kandinsky::training {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using model::ModelError;
using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::AdamWParamState;
using torch::optim::OptimizerParamGroup;

// Of every run are in the log, so that a short run can be compared with a long one.
constexpr int64_t kFirstSteps = 5;
constexpr double kMuonMomentum = 0.95;
constexpr int64_t kLeastMatrix = 16;  // sides of what Muon takes for a matrix

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

[[noreturn]] void DataLoss(const std::string& message) {
  throw ModelError(ModelError::Kind::kDataLoss, message);
}

// The nearest matrix whose singular values are about 1, for a matrix or what becomes one by joining
// all axes but the first: five steps of the quintic Newton-Schulz iteration of Jordan et al. 2024
// ("Muon"), which brings singular values from (0, 1] to between 0.7 and 1.2.
at::Tensor Orthogonalized(const at::Tensor& tensor) {
  at::Tensor x = tensor.flatten(1);
  const bool tall = x.size(0) > x.size(1);
  if (tall) x = x.t();
  x = x / (x.norm() + 1e-7);
  for (int i = 0; i < 5; ++i) {
    const at::Tensor a = at::mm(x, x.t());
    const at::Tensor b = at::addmm(a, a, a, -4.7750, 2.0315);
    x = at::addmm(x, b, x, 3.4445, 1);
  }
  if (tall) x = x.t();
  return x.reshape(tensor.sizes());
}

// Parameters of one objective, their moving averages and their optimizer.
class Trained {
 public:
  Trained(Objective objective, const TrainOptions& options)
      : objective_(std::move(objective)), options_(options) {
    std::map<double, std::vector<at::Tensor>> by_rate;
    for (const NamedTensor& parameter : objective_.parameters) {
      by_rate[parameter.rate].push_back(parameter.value);
      if (objective_.average) average_.push_back(parameter.value.detach().clone());
    }
    std::vector<OptimizerParamGroup> groups;
    for (const auto& [rate, parameters] : by_rate) {
      groups.emplace_back(parameters);
      rates_.push_back(rate);
    }
    adam_ =
        std::make_unique<AdamW>(groups, AdamWOptions(options.learning_rate)
                                            .betas(std::make_tuple(options.beta1, options.beta2))
                                            .weight_decay(options.weight_decay));
    // With its moments from the start, so that saving and loading need no special case.
    for (const NamedTensor& parameter : objective_.parameters) {
      auto state = std::make_unique<AdamWParamState>();
      state->step(0);
      state->exp_avg(at::zeros_like(parameter.value, at::MemoryFormat::Preserve));
      state->exp_avg_sq(at::zeros_like(parameter.value, at::MemoryFormat::Preserve));
      adam_->state()[parameter.value.unsafeGetTensorImpl()] = std::move(state);
    }
  }

  // Gradients -> parameters; returns the norm of the gradient before clipping.
  double Step(int64_t step, ProcessGroup& group) {
    std::vector<at::Tensor> gradients, parameters;
    for (const NamedTensor& parameter : objective_.parameters) {
      // One that took no part gets a zero, so that all processes send the same tensors.
      if (!parameter.value.grad().defined()) {
        parameter.value.mutable_grad() = at::zeros_like(parameter.value);
      }
      gradients.push_back(parameter.value.grad());
      parameters.push_back(parameter.value);
    }
    group.AllReduceMean(gradients);
    const double limit = options_.gradient_clip > 0 ? options_.gradient_clip : INFINITY;
    const double norm = torch::nn::utils::clip_grad_norm_(parameters, limit);
    const double rate = options_.learning_rate * LearningRateFactor(options_, step);
    for (size_t i = 0; i < rates_.size(); ++i) {
      adam_->param_groups()[i].options().set_lr(rate * rates_[i]);
    }
    if (options_.optimizer == Optimizer::kMuon) StepMatrices(rate, group);
    adam_->step();

    at::NoGradGuard no_grad;
    const double n = static_cast<double>(step);
    const double decay = std::min(options_.ema_decay, (1 + n) / (10 + n));
    for (size_t i = 0; i < average_.size(); ++i) average_[i].lerp_(parameters[i], 1 - decay);
    return norm;
  }

  void ZeroGrad() { adam_->zero_grad(); }

  // Parameters and averages change places.
  void Swap() {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < average_.size(); ++i) {
      at::Tensor& parameter = objective_.parameters[i].value;
      const at::Tensor kept = parameter.detach().clone();
      parameter.copy_(average_[i]);
      average_[i].copy_(kept);
    }
  }

  // Every tensor of the state under its name.
  std::map<std::string, at::Tensor> State() {
    std::map<std::string, at::Tensor> state;
    for (size_t i = 0; i < objective_.parameters.size(); ++i) {
      const NamedTensor& parameter = objective_.parameters[i];
      const std::string name = objective_.name + "." + parameter.name;
      AdamWParamState& moments = Moments(parameter);
      state["parameter." + name] = parameter.value.detach();
      if (objective_.average) state["average." + name] = average_[i];
      state["moment1." + name] = moments.exp_avg();
      state["moment2." + name] = moments.exp_avg_sq();
    }
    return state;
  }

  void SetStep(int64_t step) {
    for (const NamedTensor& parameter : objective_.parameters) {
      Moments(parameter).step(step);
    }
  }

 private:
  // Muon: momentum, orthogonalised, at a size that matches AdamW's (Liu et al. 2025, "Muon is
  // scalable", equation 4). Takes the gradients of these parameters away, so that AdamW leaves them
  // alone. Each process orthogonalises its share.
  void StepMatrices(double rate, ProcessGroup& group) {
    at::NoGradGuard no_grad;
    std::vector<const NamedTensor*> matrices;
    std::vector<at::Tensor> directions;
    for (const NamedTensor& parameter : objective_.parameters) {
      if (parameter.value.dim() < 2) continue;
      const int64_t rows = parameter.value.size(0), columns = parameter.value.numel() / rows;
      if (std::min(rows, columns) < kLeastMatrix) continue;
      const at::Tensor gradient = parameter.value.grad();
      at::Tensor& momentum = Moments(parameter).exp_avg();
      momentum.lerp_(gradient, 1 - kMuonMomentum);
      const bool mine = static_cast<int>(matrices.size()) % group.size() == group.rank();
      directions.push_back(
          mine ? Orthogonalized(at::lerp(gradient, momentum, kMuonMomentum).contiguous())
               : at::zeros(gradient.sizes(), gradient.options()));
      matrices.push_back(&parameter);
    }
    if (!directions.empty()) group.AllReduceSum(directions);
    for (size_t i = 0; i < matrices.size(); ++i) {
      at::Tensor value = matrices[i]->value;
      const int64_t rows = value.size(0), columns = value.numel() / rows;
      const double size = rate * matrices[i]->rate;
      value.mul_(1 - size * options_.weight_decay);
      value.add_(directions[i],
                 -size * 0.2 * std::sqrt(static_cast<double>(std::max(rows, columns))));
      value.mutable_grad().reset();
    }
  }

  AdamWParamState& Moments(const NamedTensor& parameter) {
    return static_cast<AdamWParamState&>(*adam_->state().at(parameter.value.unsafeGetTensorImpl()));
  }

  Objective objective_;
  const TrainOptions options_;
  std::vector<at::Tensor> average_;
  std::vector<double> rates_;  // of the optimizer's parameter groups
  std::unique_ptr<AdamW> adam_;
};

// Shows averaged parameters for as long as it lives.
class AveragedScope {
 public:
  explicit AveragedScope(std::vector<std::unique_ptr<Trained>>& trained) : trained_(trained) {
    for (auto& one : trained_) one->Swap();
  }
  ~AveragedScope() {
    for (auto& one : trained_) one->Swap();
  }

 private:
  std::vector<std::unique_ptr<Trained>>& trained_;
  at::NoGradGuard no_grad_;
};

std::string StatePath(const Task& task, const TrainOptions& options) {
  return options.out + "/training/" + task.name() + "/state.safetensors";
}

std::string Fingerprint(const Task& task, const TrainOptions& options) {
  return nlohmann::json{{"options", options.Fingerprint()}, {"task", task.Fingerprint()}}.dump();
}

// Fills the state from its file; returns the step.
int64_t LoadState(const std::string& path, const std::string& fingerprint,
                  std::vector<std::unique_ptr<Trained>>& trained) {
  at::NoGradGuard no_grad;
  const model::SafetensorsFile file(path);
  const auto metadata = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) DataLoss(path + " has no \"" + key + "\" in its metadata");
    return found->second;
  };
  if (metadata("fingerprint") != fingerprint) {
    throw ModelError(
        ModelError::Kind::kInvalidArgument,
        path +
            " belongs to a run with other options; choose another --out or remove it.\n"
            "  state: " +
            metadata("fingerprint") + "\n  now:   " + fingerprint);
  }
  const int64_t step = std::stoll(metadata("step"));
  for (auto& one : trained) {
    for (auto& [name, tensor] : one->State()) {
      const model::TensorMeta* meta = file.Find(name);
      if (meta == nullptr || at::IntArrayRef(meta->shape) != tensor.sizes()) {
        DataLoss(path + " has no tensor " + name + " of shape " + c10::str(tensor.sizes()));
      }
      tensor.copy_(file.Read(name));
    }
    one->SetStep(step);
  }
  return step;
}

void SaveState(const std::string& path, const std::string& fingerprint, int64_t step,
               std::vector<std::unique_ptr<Trained>>& trained) {
  at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> state;
  for (auto& one : trained) state.merge(one->State());
  model::WriteSafetensors(path, state,
                          {{"step", std::to_string(step)}, {"fingerprint", fingerprint}});
}

// log.csv: the lines up to a step stay, new ones follow.
class CsvLog {
 public:
  CsvLog(std::string path, int64_t step) : path_(std::move(path)) {
    std::ifstream old(path_);
    std::string line, kept;
    while (std::getline(old, line)) {
      if (line.empty()) continue;
      const bool header = line.find_first_of("0123456789") != 0;
      if (!header && std::strtoll(line.c_str(), nullptr, 10) > step) break;
      if (old.eof()) break;  // cut off in the middle
      kept += line + "\n";
    }
    old.close();
    model::WriteFile(path_, kept);
    stream_.open(path_, std::ios::app);
    empty_ = kept.empty();
  }

  void Add(const StepReport& report) {
    if (empty_) {
      stream_ << "step";
      for (const auto& [name, value] : report.values) stream_ << ',' << name;
      stream_ << ",learning_rate,gradient_norm\n";
      empty_ = false;
    }
    std::ostringstream line;
    line.precision(9);
    line << report.step;
    for (const auto& [name, value] : report.values) line << ',' << value;
    line << ',' << report.learning_rate << ',' << report.gradient_norm << '\n';
    stream_ << line.str() << std::flush;
    if (!stream_) DataLoss("cannot write " + path_ + "; the disk may be full");
  }

 private:
  const std::string path_;
  std::ofstream stream_;
  bool empty_ = true;
};

class Progress {
 public:
  Progress(const Task& task, const TrainOptions& options, int64_t first)
      : name_(task.name()),
        options_(options),
        first_(first),
        terminal_(isatty(STDERR_FILENO) != 0) {}

  ~Progress() {
    if (terminal_ && shown_) std::fputc('\n', stderr);
  }

  void Show(const StepReport& report) {
    if (!options_.progress) return;
    const auto now = Clock::now();
    const bool last = report.step == options_.steps;
    if (!last && shown_ && Seconds(now - last_) < (terminal_ ? 0.2 : 10)) return;
    last_ = now;
    shown_ = true;
    const double rate = static_cast<double>(report.step - first_) / Seconds(now - start_);
    const double left = static_cast<double>(options_.steps - report.step) / rate;
    std::ostringstream line;
    line << name_;
    if (terminal_) {
      constexpr int kWidth = 24;
      const int done = static_cast<int>(kWidth * report.step / options_.steps);
      line << " [" << std::string(done, '#') << std::string(kWidth - done, '.') << "]";
    }
    line << " " << report.step << "/" << options_.steps;
    line.precision(4);
    for (const auto& [name, value] : report.values) line << "  " << name << " " << value;
    line.precision(3);
    line << "  " << rate << " steps/s, " << static_cast<int64_t>(left) << " s left";
    if (report.wait_seconds > 0.2 * report.seconds) line << " (waiting for data)";
    std::fprintf(stderr, terminal_ ? "\r%s\x1b[K" : "%s\n", line.str().c_str());
    std::fflush(stderr);
  }

 private:
  const std::string name_;
  const TrainOptions options_;
  const int64_t first_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_;
  bool shown_ = false;
};

std::vector<std::unique_ptr<Trained>> MakeTrained(Task& task, const TrainOptions& options) {
  std::vector<std::unique_ptr<Trained>> trained;
  for (Objective& objective : task.Objectives()) {
    trained.push_back(std::make_unique<Trained>(std::move(objective), options));
  }
  return trained;
}

}  // namespace

TrainResult Train(Task& task, const TrainOptions& options, ProcessGroup& group,
                  const std::function<bool()>& interrupted) {
  options.Validate(group.size());
  const std::string directory = options.out + "/training/" + task.name();
  const std::string state_path = StatePath(task, options);
  const std::string fingerprint = Fingerprint(task, options);
  const bool main_process = group.rank() == 0;
  std::vector<std::unique_ptr<Trained>> trained = MakeTrained(task, options);

  int64_t step = 0;
  if (main_process) {
    fs::create_directories(directory + "/samples");
    if (fs::exists(state_path)) {
      if (!options.resume) {
        throw ModelError(ModelError::Kind::kInvalidArgument,
                         state_path + " exists; remove it to start anew, or leave out --noresume");
      }
      step = LoadState(state_path, fingerprint, trained);
    }
  }
  if (group.size() > 1) {
    std::vector<at::Tensor> all = {at::full({1}, static_cast<double>(step), at::kFloat)};
    for (auto& one : trained) {
      for (auto& [name, tensor] : one->State()) all.push_back(tensor);
    }
    group.Broadcast(all);
    step = static_cast<int64_t>(all[0].item<float>());
    for (auto& one : trained) one->SetStep(step);
  }

  std::unique_ptr<CsvLog> log;
  if (main_process) log = std::make_unique<CsvLog>(directory + "/log.csv", step);
  TrainingMetrics metrics(task.name(), main_process ? options.metrics_listen : "");
  if (!metrics.address().empty()) {
    std::fprintf(stderr, "metrics at http://%s/metrics\n", metrics.address().c_str());
  }

  const int64_t share = options.batch_size / group.size();
  const auto key = [&](int64_t n) {
    return BatchKey{.seed = options.seed,
                    .step = n,
                    .first = share * group.rank(),
                    .count = share,
                    .steps = options.steps,
                    .batch_size = options.batch_size};
  };
  const int64_t end =
      options.stop_at > 0 ? std::min(options.stop_at, options.steps) : options.steps;
  Loader loader([&](int64_t n) { return task.Load(key(n)); }, step, end, options.loader_threads);
  Progress progress(task, options, step);
  auto saved = Clock::now();

  const auto sheet = [&](int64_t n) {
    const AveragedScope averaged(trained);
    char name[48];
    std::snprintf(name, sizeof name, "/samples/%06lld.png", static_cast<long long>(n));
    WritePng(directory + name, task.SampleSheet(options.seed));
  };

  while (step < end) {
    const auto begin = Clock::now();
    const Batch batch = loader.Next();
    StepReport report;
    report.wait_seconds = Seconds(Clock::now() - begin);
    for (size_t i = 0; i < trained.size(); ++i) {
      for (auto& one : trained) one->ZeroGrad();
      Losses losses = task.Loss(i, batch, key(step));
      losses.total.backward();
      const std::string name = trained.size() == 1 || i == 0 ? "loss" : "loss_" + std::to_string(i);
      report.values[name] = losses.total.item<double>();
      report.values.merge(losses.values);
      const double norm = trained[i]->Step(step, group);
      if (i == 0) report.gradient_norm = norm;
    }
    bool stop = interrupted && interrupted();
    if (group.size() > 1) {  // everybody's mean, and whether anybody has to stop
      std::vector<double> numbers = {stop ? 1.0 : 0.0};
      for (const auto& [name, value] : report.values) numbers.push_back(value);
      const at::Tensor sum = at::tensor(numbers, at::kFloat);
      group.AllReduceMean({sum});
      stop = sum[0].item<double>() > 0;
      int64_t i = 1;
      for (auto& [name, value] : report.values) value = sum[i++].item<double>();
    }
    if (!std::isfinite(report.values["loss"]) || !std::isfinite(report.gradient_norm)) {
      DataLoss("the loss of step " + std::to_string(step) +
               " is not finite; a smaller --learning_rate may help");
    }
    report.learning_rate = options.learning_rate * LearningRateFactor(options, step);
    report.step = ++step;
    report.seconds = Seconds(Clock::now() - begin);
    report.samples = options.batch_size;
    metrics.Report(report);
    if (!main_process) {
      if (stop) break;
      continue;
    }
    if (step % options.log_every == 0 || step <= kFirstSteps || step == end) log->Add(report);
    progress.Show(report);
    if (step == options.steps || (options.sample_every > 0 && step % options.sample_every == 0)) {
      sheet(step);
    }
    if (stop || step == end || Seconds(Clock::now() - saved) >= options.checkpoint_seconds) {
      SaveState(state_path, fingerprint, step, trained);
      saved = Clock::now();
    }
    if (stop) break;
  }
  const bool finished = step >= options.steps;
  if ((finished || (options.export_at_stop && step == end)) && main_process) {
    const AveragedScope averaged(trained);
    task.Export(options.out);
  }
  return {step, finished};
}

}  // namespace kandinsky::training
