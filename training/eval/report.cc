#include "training/eval/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace kandinsky::training {
namespace {

std::string Number(double value, int decimals) {
  if (std::isinf(value)) return value > 0 ? "∞" : "-∞";
  char text[64];
  std::snprintf(text, sizeof(text), "%.*f", std::clamp(decimals, 0, 12), value);
  return text;
}

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

nlohmann::ordered_json JsonNumber(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

// "200 observations", "180 to 200 observations", or nothing.
std::string Counts(const Table& table) {
  int64_t least = std::numeric_limits<int64_t>::max();
  int64_t most = 0;
  for (const Table::Row& row : table.rows) {
    for (const std::optional<Interval>& cell : row.cells) {
      if (!cell || cell->count == 0) continue;
      least = std::min(least, cell->count);
      most = std::max(most, cell->count);
    }
  }
  if (most == 0) return {};
  const std::string range =
      least == most ? std::to_string(most) : std::to_string(least) + " to " + std::to_string(most);
  return range + (most == 1 ? " observation" : " observations") +
         " a cell; in brackets, 95 % confidence intervals.";
}

}  // namespace

void Table::Add(std::string name, std::vector<std::optional<Interval>> cells) {
  cells.resize(columns.size());
  rows.push_back({std::move(name), std::move(cells)});
}

std::string Format(const std::optional<Interval>& cell, const Column& column) {
  if (!cell || std::isnan(cell->value)) return "not measured";
  const double factor = column.unit == "%" ? 100 : 1;
  std::string text = Number(cell->value * factor, column.decimals);
  if (!column.unit.empty()) text += " " + column.unit;
  const bool bounds = std::isfinite(cell->low) && std::isfinite(cell->high) &&
                      !(cell->low == cell->value && cell->high == cell->value);
  if (bounds) {
    text += " (" + Number(cell->low * factor, column.decimals) + " to " +
            Number(cell->high * factor, column.decimals) + ")";
  }
  return text;
}

std::string ToMarkdown(const Report& report) {
  std::string out = "# " + report.title + "\n";
  if (!report.settings.empty()) out += "\n";
  for (const auto& [name, value] : report.settings) {
    out += "* ";
    out += name;
    out += ": ";
    out += value;
    out += '\n';
  }
  for (const Table& table : report.tables) {
    out += "\n## " + table.title + "\n\n| " + Escaped(table.row_title) + " |";
    for (const Column& column : table.columns) out += " " + Escaped(column.name) + " |";
    out += "\n|---|";
    for (size_t i = 0; i < table.columns.size(); ++i) out += "---|";
    out += "\n";
    for (const Table::Row& row : table.rows) {
      out += "| " + Escaped(row.name) + " |";
      for (size_t i = 0; i < table.columns.size(); ++i) {
        const std::optional<Interval> cell = i < row.cells.size() ? row.cells[i] : std::nullopt;
        out += " " + Format(cell, table.columns[i]) + " |";
      }
      out += "\n";
    }
    const std::string counts = Counts(table);
    if (!counts.empty()) out += "\n" + counts + "\n";
  }
  if (!report.notes.empty()) out += "\n";
  for (const std::string& note : report.notes) out += "* " + note + "\n";
  return out;
}

nlohmann::ordered_json ToJson(const Report& report) {
  using Json = nlohmann::ordered_json;
  Json out;
  out["title"] = report.title;
  out["settings"] = Json::object();
  for (const auto& [name, value] : report.settings) out["settings"][name] = value;
  out["tables"] = Json::array();
  for (const Table& table : report.tables) {
    Json columns = Json::array();
    for (const Column& column : table.columns) {
      columns.push_back({{"name", column.name}, {"unit", column.unit}});
    }
    Json rows = Json::array();
    for (const Table::Row& row : table.rows) {
      Json cells = Json::array();
      for (const std::optional<Interval>& cell : row.cells) {
        if (!cell) {
          cells.push_back(nullptr);
          continue;
        }
        Json values;
        values["value"] = JsonNumber(cell->value);
        values["low"] = JsonNumber(cell->low);
        values["high"] = JsonNumber(cell->high);
        values["count"] = cell->count;
        cells.push_back(std::move(values));
      }
      rows.push_back({{"name", row.name}, {"cells", std::move(cells)}});
    }
    out["tables"].push_back(
        {{"title", table.title}, {"columns", std::move(columns)}, {"rows", std::move(rows)}});
  }
  out["notes"] = report.notes;
  return out;
}

}  // namespace kandinsky::training
