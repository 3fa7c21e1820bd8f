// Sample sheets.
#ifndef KANDINSKY_TRAINING_CORE_PICTURE_H_
#define KANDINSKY_TRAINING_CORE_PICTURE_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

namespace kandinsky::training {

// images uint8 [N, H, W, 3] -> one picture [rows*(H*zoom+gap), columns*(W*zoom+gap), 3], row by
// row, on gray.
at::Tensor Tile(const at::Tensor& images, int64_t columns, int64_t zoom = 2);

// picture uint8 [H, W, 3]; the file is replaced. Throws ModelError::kDataLoss.
void WritePng(const std::string& path, const at::Tensor& picture);

}  // namespace kandinsky::training

#endif  // KANDINSKY_TRAINING_CORE_PICTURE_H_
