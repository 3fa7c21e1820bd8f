// Results of an evaluation as JSON for machines and as Markdown tables for people.
#ifndef KANDINSKY_TRAINING_EVAL_REPORT_H_
#define KANDINSKY_TRAINING_EVAL_REPORT_H_

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "training/eval/intervals.h"

namespace kandinsky::training {

// How a column is written.
struct Column {
  std::string name;  // "colour right"
  std::string unit;  // "dB", "s"; "%" writes a proportion as a percentage
  int decimals = 2;  // after the point, in Markdown
};

struct Table {
  std::string title;
  std::string row_title;  // heads the first column: "model", "split"
  std::vector<Column> columns;

  struct Row {
    std::string name;
    std::vector<std::optional<Interval>> cells;  // one a column; nothing: not measured
  };
  std::vector<Row> rows;

  // Adds a row. Missing cells are "not measured"; superfluous ones are dropped.
  void Add(std::string name, std::vector<std::optional<Interval>> cells);
};

struct Report {
  std::string title;
  // What is needed to repeat it: command, seed, model, sampler, … in this order.
  std::vector<std::pair<std::string, std::string>> settings;
  std::vector<Table> tables;
  std::vector<std::string> notes;
};

// "97.5 % (95.1 to 98.9)", "36.71 dB (36.20 to 37.22)"; without bounds when they are not finite or
// equal the value; "not measured" for nothing and NaN.
std::string Format(const std::optional<Interval>& cell, const Column& column);

// A heading, the settings as a list, the tables with the smallest and largest number of
// observations below them, the notes. "|" in names is escaped.
std::string ToMarkdown(const Report& report);

// {"title", "settings": {}, "tables": [{"title", "columns": [{"name", "unit"}], "rows": [{"name",
// "cells": [{"value", "low", "high", "count"} or null]}]}], "notes": []}. Numbers that JSON cannot
// hold (NaN, infinity) become null.
nlohmann::ordered_json ToJson(const Report& report);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_EVAL_REPORT_H_
