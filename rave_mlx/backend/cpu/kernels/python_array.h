// MLX's arrays in the Python objects that hold them.
#pragma once
#include <cstdint>
#include <cstring>

#include "mlx/array.h"

namespace rave {

// nanobind keeps an offset behind the head of an object, then flags, of which the third says whether the array is at that
// offset or its address.
struct PythonArrays {
    int header = 16;  // Bytes of a Python object before that.

    mlx::core::array& at(void* object) const {
        char* p = static_cast<char*>(object);
        int32_t offset;
        uint32_t flags;
        std::memcpy(&offset, p + header, 4);
        std::memcpy(&flags, p + header + 4, 4);
        void* place = p + offset;
        return *static_cast<mlx::core::array*>(flags & 4 ? place : *static_cast<void**>(place));
    }

    // Whether `shape` of `ndim` numbers is that of the array in an object.
    bool finds(void* object, int ndim, const int* shape) const {
        const mlx::core::array& x = at(object);
        if (x.ndim() != (size_t)ndim) return false;
        for (int i = 0; i < ndim; ++i)
            if (x.shape(i) != shape[i]) return false;
        return true;
    }
};

}  // namespace rave
