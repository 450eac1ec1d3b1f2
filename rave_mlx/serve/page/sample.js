/* A small receipt, drawn here, so that everything can be tried without a file. */

const ROWS = [["Coffee", "3.40"], ["Sandwich", "7.25"], ["Apple juice", "2.95"]];

/** What one may ask about it. */
export const SAMPLE_QUESTIONS = ["What is the total?", "How much is the Sandwich?", "What is the date?"];
export const SAMPLE_NAME = "sample-receipt.png";

/** The receipt as a file. */
export function sampleReceipt() {
  const canvas = document.createElement("canvas");
  canvas.width = 420;
  canvas.height = 300;
  const pen = canvas.getContext("2d");
  const write = (text, x, y, font, align = "left") => {
    pen.font = `${font} "DejaVu Sans", Verdana, Arial, sans-serif`;
    pen.textAlign = align;
    pen.fillText(text, x, y);
  };
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#111";
  write("Harbour Cafe", 210, 42, "bold 24px", "center");
  write("Date: 12 March 2026", 22, 84, "18px");
  ROWS.forEach(([name, price], i) => {
    write(name, 22, 130 + 36 * i, "20px");
    write(price, 398, 130 + 36 * i, "20px", "right");
  });
  pen.fillRect(20, 220, 380, 2);
  write("Total", 22, 252, "bold 20px");
  write("13.60", 398, 252, "bold 20px", "right");
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(new File([blob], SAMPLE_NAME, { type: "image/png" }))));
}
