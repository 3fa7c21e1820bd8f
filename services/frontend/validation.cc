#include "services/frontend/validation.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/queue/identity.h"
#include "services/frontend/convert.h"
#include "services/frontend/text.h"

namespace kandinsky {
namespace {

namespace pb = video::v1;

constexpr double kMinFps = 0.5;
constexpr double kMaxFps = 120;

// Checks the fields of GenerationParameters against one model.
class ParameterChecker {
 public:
  ParameterChecker(const pb::GenerationParameters& in, Violations& violations)
      : in_(in), violations_(violations) {}

  // What holds for every model.
  void CheckWithoutModel() {
    out_.prompt = in_.prompt();
    out_.negative_prompt = in_.negative_prompt();
    CheckText("prompt", in_.prompt(), /*required=*/true);
    CheckText("negative_prompt", in_.negative_prompt(), /*required=*/false);
    if (!pb::Level_IsValid(in_.level())) AddUnknown("level", in_.level(), "Level");
    if (!pb::VideoFormat_IsValid(in_.format())) {
      AddUnknown("format", in_.format(), "VideoFormat");
    }
    out_.format = FromProto(in_.format());
    if (in_.has_fps() && !(in_.fps() >= kMinFps && in_.fps() <= kMaxFps)) {
      Add("fps", absl::StrCat("is ", in_.fps(), ", must be from ", kMinFps, " to ", kMaxFps));
    }
    if (!in_.model().empty() && !IsIdentifier(in_.model(), "._-", 64)) {
      Add("model", absl::StrCat("is ", Quote(in_.model()), ", must be 1 to 64 of [A-Za-z0-9._-]"));
    }
  }

  void CheckAgainst(const ModelInfo& model) {
    out_.model = model.name;
    CheckLength("prompt", in_.prompt(), model.prompt_characters_max);
    CheckLength("negative_prompt", in_.negative_prompt(), model.negative_prompt_characters_max);
    out_.width = CheckSide("width", in_.has_width(), in_.width(), model.width, model.size_multiple);
    out_.height =
        CheckSide("height", in_.has_height(), in_.height(), model.height, model.size_multiple);
    const int64_t pixels = static_cast<int64_t>(out_.width) * out_.height;
    if (!violations_.Has("parameters.width") && !violations_.Has("parameters.height") &&
        pixels > model.pixels_max) {
      Add("height", absl::StrCat("gives ", out_.width, " x ", out_.height, " = ", pixels,
                                 " pixels, must be at most ", model.pixels_max));
    }
    out_.steps = CheckRange("steps", in_.has_steps(), in_.steps(), model.steps);
    out_.guidance_scale = CheckScale("guidance_scale", in_.has_guidance_scale(),
                                     in_.guidance_scale(), model.guidance_scale);
    out_.interpolation_guidance_scale =
        CheckScale("interpolation_guidance_scale", in_.has_interpolation_guidance_scale(),
                   in_.interpolation_guidance_scale(), model.interpolation_guidance_scale);
    CheckLevel(model);
  }

  GenerationParameters& out() { return out_; }

 private:
  void Add(const char* field, std::string description) {
    violations_.Add(absl::StrCat("parameters.", field), std::move(description));
  }

  void AddUnknown(const char* field, int value, const char* type) {
    Add(field, absl::StrCat("is ", value, ", which is no value of ", type));
  }

  void CheckText(const char* field, const std::string& value, bool required) {
    if (violations_.Has(absl::StrCat("parameters.", field))) return;
    if (required && value.empty()) return Add(field, "is empty, must be 1 to 2000 characters");
    const std::optional<TextProperties> text = InspectText(value);
    if (!text) return Add(field, "is not valid UTF-8");
    if (text->control) {
      Add(field, absl::StrFormat("has the control character U+%04X; only line feed and tab may be",
                                 *text->control));
    } else if (required && text->blank) {
      Add(field, "has only blanks");
    }
  }

  void CheckLength(const char* field, const std::string& value, int64_t max) {
    const std::optional<TextProperties> text = InspectText(value);
    if (text && text->characters > max) {
      Add(field, absl::StrCat("has ", text->characters, " characters, must be at most ", max));
    }
  }

  int CheckSide(const char* field, bool present, int value, const IntLimits& limits,
                int64_t multiple) {
    if (!present) return static_cast<int>(limits.default_value);
    if (value < limits.min || value > limits.max || value % multiple != 0) {
      Add(field, absl::StrCat("is ", value, ", must be a multiple of ", multiple, " from ",
                              limits.min, " to ", limits.max));
    }
    return value;
  }

  int CheckRange(const char* field, bool present, int value, const IntLimits& limits) {
    if (!present) return static_cast<int>(limits.default_value);
    if (value < limits.min || value > limits.max) {
      Add(field, absl::StrCat("is ", value, ", must be from ", limits.min, " to ", limits.max));
    }
    return value;
  }

  double CheckScale(const char* field, bool present, double value, const DoubleLimits& limits) {
    if (!present) return limits.default_value;
    // Written so that NaN fails.
    if (!(value >= limits.min && value <= limits.max)) {
      Add(field, absl::StrCat("is ", value, ", must be from ", limits.min, " to ", limits.max));
    }
    return value;
  }

  void CheckLevel(const ModelInfo& model) {
    if (!pb::Level_IsValid(in_.level())) return;
    const Level level =
        in_.level() == pb::LEVEL_UNSPECIFIED ? model.default_level : FromProto(in_.level());
    const LevelLimits* limits = model.FindLevel(level);
    if (limits == nullptr) {
      return Add("level", absl::StrCat("is ", pb::Level_Name(in_.level()), ", which model ",
                                       model.name, " does not have"));
    }
    out_.level = level;
    out_.fps = in_.has_fps() ? in_.fps() : limits->fps;
  }

  const pb::GenerationParameters& in_;
  Violations& violations_;
  GenerationParameters out_;
};

absl::Duration CheckTimeout(const CreateFields& fields, const CreateRules& rules,
                            Violations& violations) {
  if (fields.timeout == nullptr) {
    const absl::Duration bounded = std::min(
        rules.timeouts.default_value, rules.call_remaining.value_or(absl::InfiniteDuration()));
    return std::max(bounded, kMinTimeout);
  }
  const int64_t seconds = fields.timeout->seconds();
  const int32_t nanos = fields.timeout->nanos();
  const absl::Duration value = absl::Seconds(seconds) + absl::Nanoseconds(nanos);
  if (nanos < 0 || nanos > 999'999'999 || value < kMinTimeout || value > rules.timeouts.max) {
    violations.Add("timeout", absl::StrCat("is ", seconds, " s and ", nanos, " ns, must be from ",
                                           absl::FormatDuration(kMinTimeout), " to ",
                                           absl::FormatDuration(rules.timeouts.max)));
  }
  return value;
}

void CheckTenant(const std::string& tenant, Violations& violations) {
  if (!tenant.empty() && !IsIdentifier(tenant, "._-", 64)) {
    violations.Add("tenant",
                   absl::StrCat("is ", Quote(tenant), ", must be 1 to 64 of [A-Za-z0-9._-]"));
  }
}

// Digest of what the client sent, so that a repeated request without a seed is the same payload
// although the server chose one.
std::string DigestOf(const CreateFields& fields) {
  pb::CreateJobRequest canonical;
  if (fields.parameters) *canonical.mutable_parameters() = *fields.parameters;
  canonical.set_priority(static_cast<pb::Priority>(fields.priority));
  if (fields.timeout) *canonical.mutable_timeout() = *fields.timeout;
  canonical.DiscardUnknownFields();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream sink(&bytes);
    google::protobuf::io::CodedOutputStream out(&sink);
    out.SetSerializationDeterministic(true);
    canonical.SerializeToCodedStream(&out);
  }
  JobSpec hashed;
  hashed.parameters.prompt = std::move(bytes);
  return PayloadDigest(hashed);
}

void CheckEnvelope(const CreateFields& fields, const CreateRules& rules, Violations& violations,
                   JobSpec& spec) {
  if (!fields.request_id.empty() && !IsIdentifier(fields.request_id, "._:-", 128)) {
    violations.Add("request_id", absl::StrCat("is ", Quote(fields.request_id),
                                              ", must be 1 to 128 of [A-Za-z0-9._:-]"));
  }
  CheckTenant(fields.tenant, violations);
  if (!pb::Priority_IsValid(fields.priority)) {
    violations.Add("priority",
                   absl::StrCat("is ", fields.priority, ", which is no value of Priority"));
  }
  spec.request_id = fields.request_id;
  if (!fields.request_id.empty()) spec.payload_digest = DigestOf(fields);
  spec.tenant = fields.tenant.empty() ? "default" : fields.tenant;
  spec.priority = fields.priority == pb::PRIORITY_INTERACTIVE ? Priority::kInteractive
                  : fields.priority == pb::PRIORITY_BATCH     ? Priority::kBatch
                                                              : rules.default_priority;
  spec.timeout = CheckTimeout(fields, rules, violations);
}

}  // namespace

namespace {

// What to say of a text that passed all checks.
void AddNotices(const char* field, const std::string& text, const ModelInfo& model, JobSpec& spec) {
  std::vector<std::string> unknown = model.vocabulary.UnknownWords(text);
  if (unknown.empty()) return;
  Notice notice;
  notice.reason = "UNKNOWN_WORDS";
  notice.field = absl::StrCat("parameters.", field);
  notice.message = UnknownWordsMessage(unknown);
  notice.words = std::move(unknown);
  spec.notices.push_back(std::move(notice));
}

}  // namespace

grpc::Status MakeJobSpec(const CreateFields& fields, const CreateRules& rules,
                         Violations& violations, JobSpec& spec) {
  CheckEnvelope(fields, rules, violations, spec);
  static const pb::GenerationParameters kNoParameters;
  const pb::GenerationParameters& parameters =
      fields.parameters ? *fields.parameters : kNoParameters;
  ParameterChecker checker(parameters, violations);
  checker.CheckWithoutModel();
  const ModelInfo* model = rules.catalog.Find(parameters.model());
  if (model != nullptr) checker.CheckAgainst(*model);
  if (!violations.empty()) return InvalidRequest(violations);
  if (model == nullptr) return ModelNotFound(parameters.model());
  spec.parameters = std::move(checker.out());
  spec.parameters.seed = parameters.has_seed() ? parameters.seed() : rules.choose_seed();
  AddNotices("prompt", spec.parameters.prompt, *model, spec);
  AddNotices("negative_prompt", spec.parameters.negative_prompt, *model, spec);
  return grpc::Status::OK;
}

void CheckJobId(const std::string& job_id, Violations& violations) {
  if (!violations.Has("job_id") && !IsJobId(job_id)) {
    violations.Add("job_id", absl::StrCat("is ", Quote(job_id), ", must be the id of a job"));
  }
}

void CheckAfterEventId(const std::string& event_id, Violations& violations) {
  if (!event_id.empty() && !violations.Has("after_event_id") && !ParseEventId(event_id)) {
    violations.Add("after_event_id",
                   absl::StrCat("is ", Quote(event_id), ", must be the id of an event"));
  }
}

ListQuery CheckListJobs(const pb::ListJobsRequest& request, Violations& violations) {
  ListQuery query;
  if (request.page_size() < 0 || request.page_size() > kMaxPageSize) {
    violations.Add("page_size", absl::StrCat("is ", request.page_size(), ", must be from 1 to ",
                                             kMaxPageSize, ", or 0 for ", kDefaultPageSize));
  } else if (request.page_size() > 0) {
    query.page_size = request.page_size();
  }
  for (int i = 0; i < request.states_size(); ++i) {
    const int state = request.states(i);
    if (state == pb::JOB_STATE_UNSPECIFIED || !pb::JobState_IsValid(state)) {
      violations.Add(absl::StrCat("states[", i, "]"),
                     absl::StrCat("is ", state, ", which is no state of a job"));
      continue;
    }
    const JobState wanted = FromProto(request.states(i));
    if (std::find(query.filter.states.begin(), query.filter.states.end(), wanted) ==
        query.filter.states.end()) {
      query.filter.states.push_back(wanted);
    }
  }
  CheckTenant(request.tenant(), violations);
  query.filter.tenant = request.tenant();
  if (request.page_token().size() > 1024) {
    violations.Add("page_token", absl::StrCat("has ", request.page_token().size(),
                                              " bytes, must be a token of an earlier answer"));
  }
  query.page_token = request.page_token();
  return query;
}

}  // namespace kandinsky
